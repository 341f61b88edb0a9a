//! An order's reports as a stream: what is new every now and then, and the outcome at once.
//!
//! An operation that ends quickly is one message: the outcome repeats every step's result. Dropping the stream stops nothing.

use crate::apply::{Followed, Op};
use futures::stream::{self, Stream};
use rhyzome_proto::agent::{ApplyOutcome, ApplyReport, apply_report::Report};
use rhyzome_runtime::fault::{self, Point, Side};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// Until the first look at an operation's progress; each further wait is twice as long, to [`LAST_LOOK`].
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_millis(320);

/// An outcome as a report.
fn report(outcome: ApplyOutcome) -> ApplyReport {
    ApplyReport {
        report: Some(Report::Outcome(outcome)),
    }
}

/// An outcome alone.
pub(super) fn told(outcome: ApplyOutcome) -> impl Stream<Item = Result<ApplyReport, Status>> + Send {
    stream::unfold(Some(outcome), |outcome| async move {
        let side = if outcome.is_some() {
            Side::Before
        } else {
            Side::After
        };
        fault::point(Point::StepReply, side);
        outcome.map(|outcome| (Ok(report(outcome)), None))
    })
}

/// The outcome of an operation that ends soon; none of one that takes longer.
pub(super) async fn soon(op: &Op) -> Option<ApplyOutcome> {
    tokio::time::timeout(FIRST_LOOK, op.outcome()).await.ok()
}

struct Following {
    op: Arc<Op>,
    followed: Followed,
    waiting: VecDeque<ApplyReport>,
    look: Duration,
    ended: bool,
}

/// The reports of an operation, its outcome last.
pub(super) fn follow(op: Arc<Op>) -> impl Stream<Item = Result<ApplyReport, Status>> + Send {
    let mut following = Following {
        op,
        followed: Followed::default(),
        waiting: VecDeque::new(),
        look: FIRST_LOOK,
        ended: false,
    };
    following.look_again();
    stream::unfold(following, |mut following| async move {
        loop {
            if let Some(report) = following.waiting.pop_front() {
                fault::point(Point::StepReply, Side::Before);
                return Some((Ok(report), following));
            }
            if following.ended {
                fault::point(Point::StepReply, Side::After);
                return None;
            }
            let op = following.op.clone();
            match tokio::time::timeout(following.look, op.outcome()).await {
                Ok(outcome) => {
                    following.ended = true;
                    following.waiting.push_back(report(outcome));
                }
                Err(_) => following.look_again(),
            }
        }
    })
}

impl Following {
    fn look_again(&mut self) {
        let news = self.op.news(&mut self.followed);
        self.waiting.extend(news.into_iter().map(|step| ApplyReport {
            report: Some(Report::Step(step)),
        }));
        self.look = LAST_LOOK.min(self.look * 2);
    }
}
