//! What the scheduler's tests share.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod agent;
pub mod checks;
#[path = "../../../store/tests/common/mod.rs"]
pub mod common;
pub mod furnished;
pub mod lists;
pub mod walk;
