// SPDX-License-Identifier: GPL-2.0

//! References to folios that are dropped together.

use super::{
    Folio,
    FolioPtr, //
};
use crate::bindings;

const FOLIO_BATCH_SIZE: usize = bindings::FOLIO_BATCH_SIZE as usize;

/// References that are dropped together: when the batch is full, and when it is dropped.
///
/// # Examples
///
/// ```
/// use kernel::mm::internal::folio::{
///     FolioPtr,
///     PutBatch, //
/// };
///
/// /// Drops a reference to each of some folios.
/// ///
/// /// # Safety
/// ///
/// /// The caller owns these references, and passes them on.
/// unsafe fn put_all(folios: &[FolioPtr]) {
///     let mut batch = PutBatch::new();
///
///     for folio in folios {
///         // SAFETY: The caller vouches for it.
///         unsafe { batch.put(*folio, 1) };
///     }
/// }
///
/// // Dropping no references is fine.
/// // SAFETY: There are none.
/// unsafe { put_all(&[]) };
/// ```
///
/// # Invariants
///
/// The first `batch.nr` folios of `batch` are valid, and as many references to each as `refs` says
/// are owned.
pub struct PutBatch {
    batch: bindings::folio_batch,
    refs: [u32; FOLIO_BATCH_SIZE],
}

impl PutBatch {
    /// An empty batch.
    #[inline]
    pub fn new() -> Self {
        Self {
            batch: pin_init::zeroed(),
            refs: [0; FOLIO_BATCH_SIZE],
        }
    }

    /// Adds `refs` references to a folio.
    ///
    /// # Safety
    ///
    /// The caller owns them, and passes them on. The folio is not locked by the caller.
    #[inline(always)]
    pub unsafe fn put(&mut self, folio: FolioPtr, refs: u32) {
        let nr = usize::from(self.batch.nr);

        if let (Some(slot), Some(count)) = (self.batch.folios.get_mut(nr), self.refs.get_mut(nr)) {
            *slot = folio.as_ptr();
            *count = refs;
            // INVARIANT: The caller gives us its references. No overflow: `nr` is in bounds.
            self.batch.nr = self.batch.nr.wrapping_add(1);
        }
        if usize::from(self.batch.nr) >= FOLIO_BATCH_SIZE {
            self.flush();
        }
    }

    /// Adds a pin of a folio, see [`Folio::pin`].
    ///
    /// # Safety
    ///
    /// The caller owns it, and passes it on. The folio is not locked by the caller.
    #[inline]
    pub unsafe fn unpin(&mut self, folio: FolioPtr) {
        // SAFETY: The caller's pin keeps the folio.
        let refs = unsafe {
            let folio = Folio::from_raw(folio);

            if folio.has_pincount() {
                bindings::folio_pincount_dec(folio.as_ptr());
            }
            folio.refs_of_pin()
        };

        // SAFETY: The caller vouches for it. CAST: The number is positive.
        unsafe { self.put(folio, refs as u32) };
    }

    /// Drops the references.
    ///
    /// # Context
    ///
    /// Takes LRU and zone locks, which are spinlocks. Does not sleep.
    #[inline(never)]
    fn flush(&mut self) {
        // SAFETY: By the type invariants the references are ours. The batch is empty afterwards.
        unsafe { bindings::folios_put_refs(&mut self.batch, self.refs.as_mut_ptr()) };
        self.batch.nr = 0;
    }
}

impl Default for PutBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PutBatch {
    fn drop(&mut self) {
        self.flush();
    }
}
