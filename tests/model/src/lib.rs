// SPDX-License-Identifier: GPL-2.0

//! The protocol of mm/collapse as a state machine, next to its adversaries.
//!
//! [`protocol`] is the collapse, step by step as Documentation/mm/collapse.rst tells it and the
//! code does it. [`actor`] is what may run beside it. [`properties`] is what has to be true in each
//! state, and [`model`] has stateright visit all of them, the nearest ones first: what it finds has
//! the shortest way to it. [`fault`] lists what can be taken out of the protocol, to show that the
//! model notices. README.md says what is left out.

pub mod actor;
pub mod fault;
pub mod model;
pub mod print;
pub mod properties;
pub mod protocol;
pub mod scope;
pub mod state;
