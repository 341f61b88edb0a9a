use super::*;

fn accepted(job: JobId, resource: ResourceId, fence: i64) -> Accepted {
    Accepted {
        job,
        resource,
        fence: Fence(fence),
        hashes: vec![[1; 32], [2; 32]],
    }
}

fn turn(accepted: Accepted, verdict: Verdict) -> Change {
    Change::Turn {
        accepted,
        verdict,
        cause: Vec::new(),
    }
}

fn finish(job: JobId, ending: Ending) -> Change {
    Change::Finish {
        job,
        ending,
        error: Vec::new(),
    }
}

fn host() -> HostState {
    HostState::new(Uuid::nil())
}

#[test]
fn the_first_of_turn_and_finish_wins() {
    let (job, resource) = (JobId::new(), ResourceId::new());
    let mut state = host();
    state.apply(&Change::Begin(accepted(job, resource, 5)));
    state.apply(&turn(accepted(job, resource, 6), Verdict::Cancelled));
    state.apply(&Change::Done {
        job,
        result: StepResult {
            index: 1,
            ..StepResult::default()
        },
    });
    state.apply(&finish(job, Ending::Cancelled));
    state.apply(&finish(job, Ending::Succeeded));
    let entry = &state.jobs[&job];
    assert_eq!(
        entry.phase,
        Phase::Finished {
            ending: Ending::Cancelled,
            error: Vec::new()
        }
    );
    assert_eq!(entry.fence, Fence(6));
    assert!(
        entry.steps.iter().all(|s| s.result.is_none()),
        "results outlived the undo"
    );
}

#[test]
fn fences_never_decrease() {
    let resource = ResourceId::new();
    let (old, new) = (JobId::new(), JobId::new());
    let mut state = host();
    state.apply(&Change::Begin(accepted(new, resource, 9)));
    state.apply(&Change::Raise {
        job: new,
        fence: Fence(4),
    });
    state.apply(&Change::Raise {
        job: old,
        fence: Fence(20),
    });
    assert_eq!(state.fences[&resource].fence, Fence(9));
    assert_eq!(state.max_fence, Fence(9));
}

#[test]
fn a_later_job_takes_the_place_of_the_one_before() {
    let resource = ResourceId::new();
    let (old, new) = (JobId::new(), JobId::new());
    let mut state = host();
    state.apply(&Change::Begin(accepted(old, resource, 1)));
    state.apply(&finish(old, Ending::Succeeded));
    state.apply(&Change::Begin(accepted(new, resource, 2)));
    assert!(!state.jobs.contains_key(&old) && state.jobs.contains_key(&new));
}

#[test]
fn the_floor_prunes_what_ended_and_keeps_what_did_not() {
    let (done, open, above) = (JobId::new(), JobId::new(), JobId::new());
    let mut state = host();
    for (job, fence) in [(done, 1), (open, 2), (above, 7)] {
        state.apply(&Change::Begin(accepted(job, ResourceId::new(), fence)));
    }
    state.apply(&finish(done, Ending::Succeeded));
    state.apply(&finish(above, Ending::Succeeded));
    state.apply(&Change::Floor(Fence(7)));
    state.apply(&Change::Floor(Fence(3)));
    assert_eq!(state.floor, Fence(7));
    assert!(!state.jobs.contains_key(&done));
    assert!(state.jobs.contains_key(&open) && state.jobs.contains_key(&above));
    assert_eq!(state.forgettable(|_| false).len(), 1);
    assert!(state.forgettable(|_| true).is_empty());
}

#[test]
fn a_higher_epoch_voids_jobs_and_keeps_fences() {
    let (job, resource) = (JobId::new(), ResourceId::new());
    let mut state = host();
    state.apply(&Change::Begin(accepted(job, resource, 5)));
    state.apply(&Change::Epoch(Epoch(2)));
    assert!(state.jobs.is_empty());
    assert_eq!(state.fences[&resource].fence, Fence(5));
}
