// SPDX-License-Identifier: GPL-2.0

//! The actors that run beside the collapse. An action that cannot be done now leaves no successor.

pub mod cpu;
pub mod device;
pub mod reclaim;
pub mod syscall;
