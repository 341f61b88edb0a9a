//! Looks for cycles of the protocol's own steps: a system that moves for ever without faults, and never comes to rest.
//!
//! Guarantees, with invariant 1 at rest, that every job ends on every path on which faults cease: own steps are finite in
//! number from every reachable state, and where they are over, every job has ended.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::Model;

use crate::config::Config;
use crate::state::State;
use crate::steps::Step;

/// What a search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// From each of so many states every path of own steps ends.
    Rests(usize),
    /// These steps lead from a reachable state back to it.
    Circles(Vec<Step>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Colour {
    OnPath,
    Left,
}

struct Frame {
    state: State,
    key: u64,
    by: Option<Step>,
    steps: Vec<Step>,
}

fn key(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// Searches all reachable states of a configuration.
pub fn search(config: &Config) -> Verdict {
    let mut colours: HashMap<u64, Colour> = HashMap::new();
    let mut roots = config.init_states();
    let mut path: Vec<Frame> = Vec::new();
    while let Some(root) = roots.pop() {
        if colours.contains_key(&key(&root)) {
            continue;
        }
        path.push(enter(config, root, None, &mut colours, &mut roots));
        while let Some(frame) = path.last_mut() {
            let Some(step) = frame.steps.pop() else {
                colours.insert(frame.key, Colour::Left);
                path.pop();
                continue;
            };
            let Some(next) = config.next_state(&frame.state, step) else {
                continue;
            };
            let next_key = key(&next);
            match colours.get(&next_key) {
                Some(Colour::Left) => {}
                Some(Colour::OnPath) => {
                    let from = path.iter().position(|frame| frame.key == next_key).unwrap_or(0);
                    let mut circle: Vec<Step> =
                        path[from + 1..].iter().filter_map(|frame| frame.by).collect();
                    circle.push(step);
                    return Verdict::Circles(circle);
                }
                None => path.push(enter(config, next, Some(step), &mut colours, &mut roots)),
            }
        }
    }
    Verdict::Rests(colours.len())
}

fn enter(
    config: &Config,
    state: State,
    by: Option<Step>,
    colours: &mut HashMap<u64, Colour>,
    roots: &mut Vec<State>,
) -> Frame {
    let key = key(&state);
    colours.insert(key, Colour::OnPath);
    let mut others = Vec::new();
    config.other_steps(&state, &mut others);
    roots.extend(
        others
            .into_iter()
            .filter_map(|step| config.next_state(&state, step))
            .filter(|next| !colours.contains_key(&self::key(next))),
    );
    let mut steps = Vec::new();
    config.own_steps(&state, &mut steps);
    Frame {
        state,
        key,
        by,
        steps,
    }
}
