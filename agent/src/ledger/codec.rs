//! The changes' bytes: a tag, then the fields in order, little-endian, lengths before what varies.
//!
//! A tag that this version doesn't know is an error that says so, never skipped.

mod parts;

use super::record::{Accepted, Change, Ending};
use super::state::{HostState, JobEntry, Phase, ResourceFence, StepEntry};
use parts::{
    put_bytes, put_i64, put_len, put_result, put_uuid, take, take_bytes, take_i64, take_len, take_result,
    take_text, take_u8, take_uuid,
};
use rhyzome_model::ids::{Epoch, Fence, HostName, JobId, ResourceId};
use rhyzome_model::job::Verdict;
use std::collections::HashMap;

/// Why bytes are no change.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    /// Shorter than they say.
    #[error("a record is cut short")]
    Short,
    /// A tag or value that this version doesn't know.
    #[error("{what} {value}: written by a newer version?")]
    Unknown {
        /// Of what.
        what: &'static str,
        /// The value.
        value: u8,
    },
    /// Text or a step's result that can't be read.
    #[error("{0}")]
    Broken(String),
}

/// Appends [`Change::Whole`].
pub(super) fn encode_whole(out: &mut Vec<u8>, host: &HostName, state: &HostState) {
    put_bytes(out, host.as_str().as_bytes());
    out.push(11);
    put_host(out, state);
}

/// Appends a host's change.
pub(super) fn encode(out: &mut Vec<u8>, host: &HostName, change: &Change) {
    put_bytes(out, host.as_str().as_bytes());
    match change {
        Change::Host { ledger_id } => {
            out.push(1);
            out.extend_from_slice(ledger_id.as_bytes());
        }
        Change::Epoch(epoch) => {
            out.push(2);
            put_i64(out, epoch.0);
        }
        Change::Floor(floor) => {
            out.push(3);
            put_i64(out, floor.0);
        }
        Change::Begin(accepted) => {
            out.push(4);
            put_accepted(out, accepted);
        }
        Change::Turn {
            accepted,
            verdict,
            cause,
        } => {
            out.push(5);
            put_accepted(out, accepted);
            out.push(verdict_code(*verdict));
            put_bytes(out, cause);
        }
        Change::Raise { job, fence } => {
            out.push(6);
            put_uuid(out, job.0);
            put_i64(out, fence.0);
        }
        Change::Done { job, result } => {
            out.push(7);
            put_uuid(out, job.0);
            put_result(out, result);
        }
        Change::Undone { job, result } => {
            out.push(8);
            put_uuid(out, job.0);
            put_result(out, result);
        }
        Change::Finish { job, ending, error } => {
            out.push(9);
            put_uuid(out, job.0);
            out.push(ending_code(*ending));
            put_bytes(out, error);
        }
        Change::Forget(resources) => {
            out.push(10);
            put_len(out, resources.len());
            for resource in resources {
                put_uuid(out, resource.0);
            }
        }
        Change::Whole(state) => {
            out.push(11);
            put_host(out, state);
        }
    }
}

/// Reads every change of a batch.
pub(super) fn decode(mut bytes: &[u8]) -> Result<Vec<(HostName, Change)>, RecordError> {
    let mut changes = Vec::new();
    let input = &mut bytes;
    while !input.is_empty() {
        let host = HostName(take_text(input)?);
        let change = match take_u8(input)? {
            1 => Change::Host {
                ledger_id: take_uuid(input)?,
            },
            2 => Change::Epoch(Epoch(take_i64(input)?)),
            3 => Change::Floor(Fence(take_i64(input)?)),
            4 => Change::Begin(take_accepted(input)?),
            5 => Change::Turn {
                accepted: take_accepted(input)?,
                verdict: take_verdict(input)?,
                cause: take_bytes(input)?.to_vec(),
            },
            6 => Change::Raise {
                job: JobId(take_uuid(input)?),
                fence: Fence(take_i64(input)?),
            },
            7 => Change::Done {
                job: JobId(take_uuid(input)?),
                result: take_result(input)?,
            },
            8 => Change::Undone {
                job: JobId(take_uuid(input)?),
                result: take_result(input)?,
            },
            9 => Change::Finish {
                job: JobId(take_uuid(input)?),
                ending: take_ending(input)?,
                error: take_bytes(input)?.to_vec(),
            },
            10 => {
                let count = take_len(input)?;
                let ids = (0..count).map(|_| take_uuid(input).map(ResourceId));
                Change::Forget(ids.collect::<Result<_, _>>()?)
            }
            11 => Change::Whole(Box::new(take_host(input)?)),
            value => {
                return Err(RecordError::Unknown {
                    what: "change",
                    value,
                });
            }
        };
        changes.push((host, change));
    }
    Ok(changes)
}

fn put_host(out: &mut Vec<u8>, state: &HostState) {
    put_uuid(out, state.ledger_id);
    put_i64(out, state.epoch.0);
    put_i64(out, state.floor.0);
    put_i64(out, state.max_fence.0);
    put_len(out, state.fences.len());
    for (resource, held) in &state.fences {
        put_uuid(out, resource.0);
        put_i64(out, held.fence.0);
        put_uuid(out, held.job.0);
    }
    put_len(out, state.jobs.len());
    for (job, entry) in &state.jobs {
        put_uuid(out, job.0);
        put_entry(out, entry);
    }
}

fn take_host(input: &mut &[u8]) -> Result<HostState, RecordError> {
    let mut state = HostState::new(take_uuid(input)?);
    state.epoch = Epoch(take_i64(input)?);
    state.floor = Fence(take_i64(input)?);
    state.max_fence = Fence(take_i64(input)?);
    state.fences = HashMap::new();
    for _ in 0..take_len(input)? {
        let resource = ResourceId(take_uuid(input)?);
        let held = ResourceFence {
            fence: Fence(take_i64(input)?),
            job: JobId(take_uuid(input)?),
        };
        state.fences.insert(resource, held);
    }
    for _ in 0..take_len(input)? {
        let job = JobId(take_uuid(input)?);
        state.jobs.insert(job, take_entry(input)?);
    }
    Ok(state)
}

fn put_entry(out: &mut Vec<u8>, entry: &JobEntry) {
    put_uuid(out, entry.resource.0);
    put_i64(out, entry.fence.0);
    match &entry.phase {
        Phase::Forward => out.push(1),
        Phase::Undoing { verdict, cause } => {
            out.push(2);
            out.push(verdict_code(*verdict));
            put_bytes(out, cause);
        }
        Phase::Finished { ending, error } => {
            out.push(3);
            out.push(ending_code(*ending));
            put_bytes(out, error);
        }
    }
    put_len(out, entry.steps.len());
    for step in &entry.steps {
        out.extend_from_slice(&step.hash);
        for result in [&step.result, &step.undone] {
            match result {
                Some(result) => {
                    out.push(1);
                    put_result(out, result);
                }
                None => out.push(0),
            }
        }
    }
}

fn take_entry(input: &mut &[u8]) -> Result<JobEntry, RecordError> {
    let resource = ResourceId(take_uuid(input)?);
    let fence = Fence(take_i64(input)?);
    let phase = match take_u8(input)? {
        1 => Phase::Forward,
        2 => Phase::Undoing {
            verdict: take_verdict(input)?,
            cause: take_bytes(input)?.to_vec(),
        },
        3 => Phase::Finished {
            ending: take_ending(input)?,
            error: take_bytes(input)?.to_vec(),
        },
        value => return Err(RecordError::Unknown { what: "phase", value }),
    };
    let count = take_len(input)?;
    let mut steps = Vec::new();
    for _ in 0..count {
        let hash = *take(input, 32)?.first_chunk::<32>().ok_or(RecordError::Short)?;
        let mut results = [None, None];
        for result in &mut results {
            *result = match take_u8(input)? {
                0 => None,
                1 => Some(take_result(input)?),
                value => {
                    return Err(RecordError::Unknown {
                        what: "result",
                        value,
                    });
                }
            };
        }
        let [result, undone] = results;
        steps.push(StepEntry { hash, result, undone });
    }
    Ok(JobEntry {
        resource,
        fence,
        phase,
        steps,
    })
}

fn put_accepted(out: &mut Vec<u8>, accepted: &Accepted) {
    put_uuid(out, accepted.job.0);
    put_uuid(out, accepted.resource.0);
    put_i64(out, accepted.fence.0);
    put_len(out, accepted.hashes.len());
    for hash in &accepted.hashes {
        out.extend_from_slice(hash);
    }
}

fn take_accepted(input: &mut &[u8]) -> Result<Accepted, RecordError> {
    let job = JobId(take_uuid(input)?);
    let resource = ResourceId(take_uuid(input)?);
    let fence = Fence(take_i64(input)?);
    let count = take_len(input)?;
    let hashes = (0..count).map(|_| {
        take(input, 32)?
            .first_chunk::<32>()
            .copied()
            .ok_or(RecordError::Short)
    });
    Ok(Accepted {
        job,
        resource,
        fence,
        hashes: hashes.collect::<Result<_, _>>()?,
    })
}

fn verdict_code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Failed => 1,
        Verdict::Cancelled => 2,
        Verdict::Deadline => 3,
        Verdict::Released => 4,
    }
}

fn take_verdict(input: &mut &[u8]) -> Result<Verdict, RecordError> {
    match take_u8(input)? {
        1 => Ok(Verdict::Failed),
        2 => Ok(Verdict::Cancelled),
        3 => Ok(Verdict::Deadline),
        4 => Ok(Verdict::Released),
        value => Err(RecordError::Unknown {
            what: "verdict",
            value,
        }),
    }
}

fn ending_code(ending: Ending) -> u8 {
    match ending {
        Ending::Succeeded => 1,
        Ending::Failed => 2,
        Ending::Cancelled => 3,
        Ending::Released => 4,
    }
}

fn take_ending(input: &mut &[u8]) -> Result<Ending, RecordError> {
    match take_u8(input)? {
        1 => Ok(Ending::Succeeded),
        2 => Ok(Ending::Failed),
        3 => Ok(Ending::Cancelled),
        4 => Ok(Ending::Released),
        value => Err(RecordError::Unknown {
            what: "ending",
            value,
        }),
    }
}
