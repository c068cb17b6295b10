// SPDX-License-Identifier: GPL-2.0

#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/pagemap.h>
#include <linux/uaccess.h>
#include <linux/userfaultfd_k.h>
#include <../../mm/internal.h>

__rust_helper int rust_helper_mmap_lock_is_contended(struct mm_struct *mm)
{
	return mmap_lock_is_contended(mm);
}

__rust_helper bool rust_helper_mm_flags_test(int flag,
					     const struct mm_struct *mm)
{
	return mm_flags_test(flag, mm);
}

#ifdef CONFIG_PER_VMA_LOCK
__rust_helper bool rust_helper_vma_start_read_locked(struct vm_area_struct *vma)
{
	return vma_start_read_locked(vma);
}

/* Does a writer wait for the readers of this VMA to leave? */
__rust_helper bool rust_helper_vma_lock_is_contended(struct vm_area_struct *vma)
{
	return refcount_read(&vma->vm_refcnt) & VM_REFCNT_EXCLUDE_READERS_FLAG;
}
#endif

__rust_helper bool rust_helper_vma_is_anonymous(struct vm_area_struct *vma)
{
	return vma_is_anonymous(vma);
}

__rust_helper bool rust_helper_userfaultfd_armed(struct vm_area_struct *vma)
{
	return userfaultfd_armed(vma);
}

__rust_helper bool rust_helper_userfaultfd_wp(struct vm_area_struct *vma)
{
	return userfaultfd_wp(vma);
}

__rust_helper bool rust_helper_userfaultfd_rwp(struct vm_area_struct *vma)
{
	return userfaultfd_rwp(vma);
}

__rust_helper unsigned long
rust_helper_thp_vma_allowable_orders(struct vm_area_struct *vma,
				     vm_flags_t vm_flags, enum tva_type type,
				     unsigned long orders)
{
	return thp_vma_allowable_orders(vma, vm_flags, type, orders);
}

__rust_helper pgoff_t
rust_helper_linear_page_index(const struct vm_area_struct *vma,
			      const unsigned long address)
{
	return linear_page_index(vma, address);
}

__rust_helper unsigned long rust_helper_untagged_addr(unsigned long addr)
{
	return untagged_addr(addr);
}

__rust_helper unsigned long
rust_helper_untagged_addr_remote(struct mm_struct *mm, unsigned long addr)
{
	return untagged_addr_remote(mm, addr);
}

__rust_helper vm_fault_t rust_helper_do_swap_page(struct vm_fault *vmf)
{
	return do_swap_page(vmf);
}
