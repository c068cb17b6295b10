// SPDX-License-Identifier: GPL-2.0

//! Scopes: actors that are explored together. All actors at once are too many states: each scope
//! has some.

use crate::{
    protocol::Engine,
    state::{Budget, Cpu, Folio, Kind, Others, Page, Pmd, Pte, State, CPUS, ENGINES, SLOTS},
};

/// The page that a slot maps in the beginning.
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
    pub name: String,
    pub starts: Vec<[Start; SLOTS]>,
    /// Whether the pages of the slots are one folio.
    pub large: bool,
    /// Whether page tables give write access in the beginning.
    pub vm_write: bool,
    /// Whether the VMA is registered for userfaultfd write protection.
    pub uffd: bool,
    /// Whether zaps are those of the OOM reaper.
    pub reaps: bool,
    /// The CPUs that the process runs on. The first one stores.
    pub cpus: usize,
    pub stores: u8,
    pub budget: Budget,
    /// How many collapses run.
    pub collapses: usize,
    /// Whether they go the old way from the beginning.
    pub isolates: bool,
    pub recopy_max: usize,
    /// Rounds after the first one.
    pub rounds: u8,
    pub tries: u8,
    /// Whether no page may be copied again but one that was written.
    pub exact: bool,
    /// Whether one of the collapses has to succeed.
    pub must_collapse: bool,
}

impl Scope {
    fn new(name: &str) -> Self {
        Scope {
            name: name.to_string(),
            starts: vec![[Start::Dirty, Start::Clean]],
            large: false,
            vm_write: true,
            uffd: false,
            reaps: false,
            cpus: 1,
            stores: 1,
            budget: Budget::default(),
            collapses: 1,
            isolates: false,
            recopy_max: 1,
            rounds: 1,
            tries: 1,
            exact: false,
            must_collapse: false,
        }
    }

    /// Both adversaries at once.
    fn beside(&self, other: &Scope) -> Scope {
        Scope {
            name: format!("{} and {}", self.name, other.name),
            vm_write: self.vm_write && other.vm_write,
            uffd: self.uffd || other.uffd,
            reaps: self.reaps || other.reaps,
            recopy_max: self.recopy_max.min(other.recopy_max),
            budget: self.budget.with(&other.budget),
            ..self.clone()
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
            cpu: [Cpu::default(); CPUS],
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

        state.cpu[0].stores = self.stores;
        for cpu in state.cpu.iter_mut().take(self.cpus) {
            cpu.runs = true;
            cpu.walks = warm;
        }
        for engine in state.engine.iter_mut().take(self.collapses) {
            *engine = Engine::default();
        }
        for (slot, start) in start.into_iter().enumerate() {
            self.map_first(&mut state, slot, start);
            if warm && state.pte[slot].is_readable() {
                for cpu in state.cpu.iter_mut().take(self.cpus) {
                    cpu.tlb[slot] = Some(state.pte[slot].into());
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
                state.pte[slot] = Pte::of_kind(Kind::Zero, 0);
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

/// The adversaries, each with what it may do. All pairs of them are explored by `make model`.
fn adversaries() -> Vec<Scope> {
    let new = |name, budget| Scope {
        budget,
        ..Scope::new(name)
    };
    let none = Budget::default();

    vec![
        new(
            "gup",
            Budget {
                gup: 1,
                dma: 2,
                ..none
            },
        ),
        new("poke", Budget { poke: 1, ..none }),
        new(
            "longterm",
            Budget {
                longterm: 1,
                ..none
            },
        ),
        new(
            "reclaim",
            Budget {
                reclaim: 1,
                swapoff: 1,
                ..none
            },
        ),
        new("numa", Budget { numa: 1, ..none }),
        new("ksm", Budget { ksm: 1, ..none }),
        new(
            "move",
            Budget {
                move_page: 1,
                ..none
            },
        ),
        new("zap", Budget { zap: 1, ..none }),
        Scope {
            reaps: true,
            ..new("reaper", Budget { zap: 1, ..none })
        },
        new("fork", Budget { fork: 1, ..none }),
        new(
            "mprotect",
            Budget {
                mprotect: 1,
                ..none
            },
        ),
        Scope {
            recopy_max: 0,
            ..new(
                "secondary",
                Budget {
                    secondary: 1,
                    secondary_writes: 2,
                    ..none
                },
            )
        },
        Scope {
            uffd: true,
            ..new("userfaultfd", Budget { uffd: 1, ..none })
        },
        Scope {
            vm_write: false,
            ..new("force", Budget { poke: 2, ..none })
        },
    ]
}

/// The scopes of `make test`.
pub fn short() -> Vec<Scope> {
    use Start::{Clean, Dirty, Hole, Shared, Zero};

    let kinds = vec![
        [Dirty, Clean],
        [Dirty, Zero],
        [Clean, Hole],
        [Dirty, Shared],
    ];
    let none = Budget::default();
    let mut scopes = adversaries();

    for scope in &mut scopes {
        match scope.name.as_str() {
            "ksm" => scope.starts = vec![[Dirty, Shared]],
            "numa" => scope.starts.push([Dirty, Hole]),
            "poke" => scope.starts.push([Dirty, Zero]),
            "zap" => scope.starts = kinds.clone(),
            // A refusal is what leaves PTEs read-only.
            "mprotect" => scope.budget.gup = 1,
            _ => {}
        }
    }
    scopes.extend([
        Scope {
            starts: kinds,
            cpus: 2,
            exact: true,
            ..Scope::new("stores")
        },
        Scope {
            stores: 2,
            recopy_max: 0,
            must_collapse: true,
            ..Scope::new("writers")
        },
        Scope {
            stores: 0,
            collapses: 2,
            tries: 2,
            must_collapse: true,
            ..Scope::new("two collapses")
        },
        Scope {
            stores: 0,
            large: true,
            budget: Budget {
                poke: 1,
                reclaim: 1,
                ..none
            },
            ..Scope::new("large folio")
        },
        Scope {
            isolates: true,
            budget: Budget {
                gup: 1,
                dma: 2,
                ..none
            },
            ..Scope::new("old way, gup")
        },
        Scope {
            isolates: true,
            budget: Budget {
                zap: 1,
                numa: 1,
                ..none
            },
            ..Scope::new("old way, zap and numa")
        },
        Scope {
            uffd: true,
            budget: Budget {
                uffd: 1,
                gup: 1,
                ..none
            },
            ..Scope::new("old way, userfaultfd and gup")
        },
    ]);
    scopes
}

/// The further scopes of `make model`: each adversary next to each other one, and all that is in
/// [`short`] with two CPUs and another try.
pub fn long() -> Vec<Scope> {
    let again = short().into_iter().map(|scope| Scope {
        name: format!("{}, 2 CPUs, 2 tries", scope.name),
        cpus: 2,
        tries: 2,
        ..scope
    });
    let adversaries = adversaries();
    let pairs = adversaries.iter().enumerate().flat_map(|(nr, one)| {
        adversaries[nr + 1..]
            .iter()
            .map(move |other| one.beside(other))
    });

    pairs.chain(again).collect()
}
