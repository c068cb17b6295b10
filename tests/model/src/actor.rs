// SPDX-License-Identifier: GPL-2.0

//! What runs beside the collapse. An action that cannot be done now leaves no successor.

pub mod cpu;
pub mod device;
pub mod reclaim;
pub mod syscall;
