// SPDX-License-Identifier: GPL-2.0

//! What is explored together. All actors at once are too many states: each scope has some.

use crate::{
    protocol::Engine,
    state::{Budget, Cpu, Folio, Others, Page, Pmd, Pte, State, Tlb, CPUS, ENGINES, SLOTS},
};

/// What a slot maps in the beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// A page that was written.
    Dirty,
    /// A page that may be written, and was not.
    Clean,
    /// A page that another process maps, too.
    Shared,
    Zero,
    Hole,
}

#[derive(Clone)]
pub struct Scope {
    pub name: &'static str,
    /// Whether it takes too long for `make test`.
    pub long: bool,
    pub starts: Vec<[Start; SLOTS]>,
    /// Whether the pages of the slots are one folio.
    pub large: bool,
    /// Whether page tables give write access in the beginning.
    pub vm_write: bool,
    /// Whether the VMA is registered for userfaultfd write protection.
    pub uffd: bool,
    /// Whether zaps are those of the OOM reaper.
    pub reaps: bool,
    /// The stores that each CPU may do.
    pub stores: [u8; CPUS],
    pub budget: Budget,
    /// How many collapses run.
    pub collapses: usize,
    /// Whether they go the old way from the beginning.
    pub isolates: bool,
    pub recopy_max: usize,
    /// Rounds after the first one.
    pub rounds: u8,
    pub tries: u8,
    /// Whether one of the collapses has to succeed.
    pub must_collapse: bool,
}

impl Scope {
    fn new(name: &'static str) -> Self {
        Scope {
            name,
            long: false,
            starts: vec![[Start::Dirty, Start::Dirty]],
            large: false,
            vm_write: true,
            uffd: false,
            reaps: false,
            stores: [1, 0],
            budget: Budget::default(),
            collapses: 1,
            isolates: false,
            recopy_max: 1,
            rounds: 1,
            tries: 1,
            must_collapse: false,
        }
    }

    pub fn init_states(&self) -> Vec<State> {
        self.starts
            .iter()
            .flat_map(|start| [false, true].map(|warm| self.init_state(*start, warm)))
            .collect()
    }

    /// `warm`: CPUs have the translations in their TLBs.
    fn init_state(&self, start: [Start; SLOTS], warm: bool) -> State {
        let mut state = State {
            pmd: Pmd::Table,
            pmd_write: false,
            pmd_lock: None,
            pte: [Pte::NONE; SLOTS],
            ptl: None,
            page: Default::default(),
            folio: Default::default(),
            large: self.large,
            cpu: self.stores.map(|stores| Cpu {
                stores,
                walks: warm,
                ..Cpu::default()
            }),
            secondary: [None; SLOTS],
            ranges: 0,
            swap: [0; SLOTS],
            child: [None; SLOTS],
            moved: None,
            vm_write: self.vm_write,
            uffd_wp: [false; SLOTS],
            unstable: false,
            reaped: false,
            has_pinned: false,
            truth: [0; SLOTS],
            zaps: [0; SLOTS],
            engine: [Engine::absent(); ENGINES],
            others: Others::default(),
            budget: self.budget,
            violation: None,
        };

        for engine in state.engine.iter_mut().take(self.collapses) {
            *engine = Engine::default();
        }
        for (slot, start) in start.into_iter().enumerate() {
            self.map_first(&mut state, slot, start);
            if warm && state.pte[slot].is_readable() {
                for cpu in &mut state.cpu {
                    cpu.tlb[slot] = Some(Tlb {
                        page: state.pte[slot].page,
                        write: state.pte[slot].write,
                        dirty: state.pte[slot].dirty,
                    });
                }
            }
        }
        state
    }

    fn map_first(&self, state: &mut State, slot: usize, start: Start) {
        let page = slot as u8;
        let (write, dirty) = match start {
            Start::Hole => return,
            Start::Zero => {
                state.pte[slot] = Pte::of_kind(crate::state::Kind::Zero, 0);
                return;
            }
            Start::Dirty => (true, true),
            Start::Clean => (true, false),
            Start::Shared => (false, false),
        };
        let shared = start == Start::Shared;

        state.truth[slot] = 1;
        state.page[slot] = Page {
            content: 1,
            exclusive: !shared,
        };
        state.pte[slot] = Pte::page(page, write && self.vm_write, dirty);
        if shared {
            state.child[slot] = Some((page, 1));
        }
        let folio: &mut Folio = state.folio_of(page);

        folio.refs += 1 + u8::from(shared);
        folio.maps += 1 + u8::from(shared);
    }
}

/// All that is explored.
pub fn all() -> Vec<Scope> {
    use Start::{Clean, Dirty, Hole, Shared, Zero};

    let kinds = || vec![[Dirty, Clean], [Dirty, Zero], [Clean, Hole], [Dirty, Shared]];
    let one = || vec![[Dirty, Clean]];

    vec![
        Scope {
            starts: kinds(),
            stores: [2, 0],
            ..Scope::new("stores")
        },
        Scope {
            starts: one(),
            stores: [2, 1],
            tries: 2,
            must_collapse: true,
            ..Scope::new("writers")
        },
        Scope {
            starts: one(),
            stores: [1, 0],
            budget: Budget {
                gup: 1,
                dma: 2,
                ..Budget::default()
            },
            ..Scope::new("gup")
        },
        Scope {
            starts: one(),
            budget: Budget {
                poke: 1,
                ..Budget::default()
            },
            stores: [1, 0],
            ..Scope::new("poke")
        },
        Scope {
            starts: one(),
            vm_write: false,
            stores: [0, 0],
            budget: Budget {
                poke: 2,
                ..Budget::default()
            },
            ..Scope::new("force")
        },
        Scope {
            starts: one(),
            stores: [1, 0],
            budget: Budget {
                longterm: 1,
                ..Budget::default()
            },
            ..Scope::new("longterm")
        },
        Scope {
            starts: one(),
            stores: [1, 0],
            budget: Budget {
                reclaim: 1,
                swapoff: 1,
                ..Budget::default()
            },
            ..Scope::new("reclaim")
        },
        Scope {
            starts: one(),
            large: true,
            stores: [0, 0],
            budget: Budget {
                poke: 1,
                reclaim: 1,
                ..Budget::default()
            },
            ..Scope::new("large")
        },
        Scope {
            starts: one(),
            stores: [1, 0],
            budget: Budget {
                numa: 1,
                ..Budget::default()
            },
            ..Scope::new("numa")
        },
        Scope {
            starts: vec![[Dirty, Shared]],
            stores: [1, 0],
            budget: Budget {
                ksm: 1,
                ..Budget::default()
            },
            ..Scope::new("ksm")
        },
        Scope {
            starts: one(),
            uffd: true,
            stores: [1, 0],
            budget: Budget {
                uffd: 1,
                ..Budget::default()
            },
            ..Scope::new("userfaultfd")
        },
        Scope {
            starts: one(),
            stores: [1, 0],
            budget: Budget {
                move_page: 1,
                ..Budget::default()
            },
            ..Scope::new("move")
        },
        Scope {
            starts: kinds(),
            stores: [1, 0],
            budget: Budget {
                zap: 1,
                ..Budget::default()
            },
            ..Scope::new("zap")
        },
        Scope {
            starts: one(),
            stores: [1, 0],
            reaps: true,
            budget: Budget {
                zap: 1,
                ..Budget::default()
            },
            ..Scope::new("reaper")
        },
        Scope {
            starts: one(),
            stores: [1, 0],
            budget: Budget {
                fork: 1,
                ..Budget::default()
            },
            ..Scope::new("fork")
        },
        Scope {
            starts: one(),
            stores: [2, 0],
            budget: Budget {
                gup: 1,
                mprotect: 1,
                ..Budget::default()
            },
            ..Scope::new("mprotect")
        },
        Scope {
            starts: one(),
            stores: [0, 0],
            recopy_max: 0,
            budget: Budget {
                secondary: 1,
                secondary_writes: 2,
                ..Budget::default()
            },
            ..Scope::new("secondary")
        },
        Scope {
            starts: one(),
            collapses: 2,
            stores: [1, 0],
            tries: 2,
            must_collapse: true,
            ..Scope::new("two")
        },
    ]
}
