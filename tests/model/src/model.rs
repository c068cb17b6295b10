// SPDX-License-Identifier: GPL-2.0

//! The state machine as stateright explores it: in each state any actor may do its next step.

use crate::{
    actor::{cpu, device, reclaim, syscall},
    fault::Fault,
    properties::{find_violation, is_over},
    protocol,
    scope::Scope,
    state::{State, Violation, ENGINES},
};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Collapse(usize),
    Cpu(cpu::Action),
    Device(device::Action),
    Reclaim(reclaim::Action),
    Syscall(syscall::Action),
}

pub struct Collapse {
    scope: Scope,
    fault: Option<Fault>,
    /// stateright reports the last of the violations that it finds at about the same time. The
    /// first one has the shortest way to it.
    found: AtomicBool,
}

const SAFE: &str = "nothing is lost, misread or left over";
const ENDS: &str = "the protocol ends";

impl Model for Collapse {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.scope.init_states()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.violation.is_some() {
            return;
        }
        for nr in 0..ENGINES {
            if !state.engine[nr].is_done() {
                actions.push(Action::Collapse(nr));
            }
        }
        cpu::actions(state, &mut |action| actions.push(Action::Cpu(action)));
        device::actions(state, &mut |action| actions.push(Action::Device(action)));
        reclaim::actions(state, &mut |action| actions.push(Action::Reclaim(action)));
        syscall::actions(state, &mut |action| actions.push(Action::Syscall(action)));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        let done = match action {
            Action::Collapse(nr) => protocol::step(&self.scope, self.fault, &mut state, nr),
            Action::Cpu(action) => cpu::step(&mut state, action),
            Action::Device(action) => device::step(&mut state, action),
            Action::Reclaim(action) => reclaim::step(&mut state, action),
            Action::Syscall(action) => {
                syscall::step(&mut state, action, self.scope.reaps, self.fault)
            }
        };

        if !done {
            return None;
        }
        state.violation = find_violation(&self.scope, &state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SAFE, |model: &Self, state: &State| {
                state.violation.is_none() || model.found.swap(true, Ordering::Relaxed)
            }),
            // Each actor may do a bounded number of things, so there are no cycles: all that could
            // keep the protocol from its end is that everybody waits.
            Property::eventually(ENDS, |_: &Self, state: &State| {
                state.violation.is_some() || is_over(state)
            }),
        ]
    }
}

/// The result of an exploration.
pub struct Report {
    pub states: usize,
    pub depth: usize,
    pub time: Duration,
    pub trace: Option<Trace>,
}

/// The way to a state in which something is wrong.
pub struct Trace {
    pub start: State,
    pub steps: Vec<(Action, State)>,
    /// None: nobody can go on.
    pub violation: Option<Violation>,
}

/// Visits all states of a scope, or all up to the first violation.
pub fn explore(scope: Scope, fault: Option<Fault>) -> Report {
    let start = Instant::now();
    let model = Collapse {
        scope,
        fault,
        found: AtomicBool::new(false),
    };
    let checker = model
        .checker()
        .threads(1)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let path = checker.discovery(SAFE).or_else(|| checker.discovery(ENDS));

    Report {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        time: start.elapsed(),
        trace: path.map(|path| {
            let mut steps = Vec::new();
            let mut states = path.into_vec().into_iter();
            let (mut state, mut action) = states.next().expect("a path has a first state");
            let start = state;

            for (next, then) in states {
                if let Some(action) = action {
                    steps.push((action, next));
                }
                (state, action) = (next, then);
            }
            Trace {
                start,
                steps,
                violation: state.violation,
            }
        }),
    }
}
