//! The API as a client sees it: before the database (`auth`), and on a real Postgres (`accept`, `held`, `quota`).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

mod accept;
mod answers;
mod apart;
mod auth;
mod changes;
mod common;
mod connection;
mod contract;
mod dry;
mod held;
mod jobs;
mod large;
mod later;
mod quota;
mod replays;
mod unheard;
mod world;
