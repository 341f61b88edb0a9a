//! One random walk, by seed.

use super::agent::{Agents, Luck, report};
use super::checks;
use super::common::{self, make};
use chrono::TimeDelta;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rhyzome_model::ids::{Fence, JobId, TenantId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::Kind;
use rhyzome_model::place::Verdict;
use rhyzome_proto::event::{OutcomeKind, Report};
use rhyzome_scheduler::SchedulerConfig;
use rhyzome_scheduler::decide::{Around, Next, decide, unplannable, wait_for_room, wait_to_grow};
use rhyzome_scheduler::judge::{Moment, judge, poisoned};
use rhyzome_scheduler::place::{View, grow};
use rhyzome_store::Store;
use rhyzome_store::dispatch::{Decision, DispatchLimits, NewOrder, OrderRow};
use rhyzome_store::resources::{Page, ResourceFilter, Scope};
use rhyzome_store::rows::ResourceRow;
use rhyzome_store::sweep::Place;
use rhyzome_store::watches::Watch;
use std::collections::BTreeMap;

pub const LIMITS: DispatchLimits = DispatchLimits {
    batch: 20,
    tenant_cap: 4,
    host_cap: 3,
};

pub struct Walk {
    pub store: Store,
    rng: StdRng,
    agents: Agents,
    pub tenants: Vec<TenantId>,
    pub hosts: Vec<rhyzome_model::ids::HostName>,
    view: View,
    config: SchedulerConfig,
    /// Orders that went out, the newest of each job last.
    pub out: Vec<OrderRow>,
    old: Vec<Report>,
    states: BTreeMap<JobId, JobState>,
    names: u32,
}

impl Walk {
    pub async fn new(seed: u64) -> Self {
        let store = common::store().await;
        let tenants = vec![make::tenant(&store, "a").await, make::tenant(&store, "b").await];
        let mut hosts = Vec::new();
        for (name, vcpus) in [("h1", 4), ("h2", 4), ("h3", 2)] {
            hosts.push(make::host(&store, name, vcpus).await);
        }
        Self {
            store,
            rng: StdRng::seed_from_u64(seed),
            agents: Agents::default(),
            tenants,
            hosts,
            view: View::new(seed),
            config: SchedulerConfig::default(),
            out: Vec::new(),
            old: Vec::new(),
            states: BTreeMap::new(),
            names: 0,
        }
    }

    pub async fn step(&mut self) {
        match self.rng.random_range(0..22) {
            20 => self.poison().await,
            21 => self.abandon().await,
            0..=3 => self.create().await,
            4..=5 => self.change().await,
            6 => self.delete().await,
            7 => self.cancel().await,
            8 => self.retry().await,
            9 => self.deadline().await,
            10 => self.host_changes().await,
            11..=14 => self.dispatch().await,
            15 => self.time_passes().await,
            _ => self.settle(Luck::Chance).await,
        }
    }

    /// The books, and that no job took a step that it may not.
    pub async fn check(&mut self, what: &str) {
        checks::check_within(&self.store, LIMITS.tenant_cap.into(), what).await;
        let rows: Vec<(uuid::Uuid, String)> = sqlx::query_as("SELECT id, state FROM jobs")
            .fetch_all(self.store.pool())
            .await
            .unwrap();
        for (id, state) in rows {
            let state = JobState::parse(&state).unwrap();
            if let Some(before) = self.states.insert(JobId(id), state) {
                let legal = before == state
                    || before.may_become(state)
                    // Within one transaction: woken, and more.
                    || (before == JobState::Blocked && JobState::Queued.may_become(state));
                assert!(legal, "{what}: job {id} went from {before} to {state}");
            }
        }
    }

    /// All hosts are up, all agents do well, time passes: every job ends, and what was asked for last is gone or there.
    pub async fn heal(&mut self, what: &str) {
        for host in self.hosts.clone() {
            self.store
                .watch_set(make::WATCHER, &host, Watch::Up)
                .await
                .unwrap();
        }
        for round in 0..400 {
            self.time_passes().await;
            sqlx::query("UPDATE jobs SET excluded = '{}' WHERE ended_at IS NULL")
                .execute(self.store.pool())
                .await
                .unwrap();
            self.dispatch().await;
            self.settle(Luck::Good).await;
            self.check(&format!("{what}, healing {round}")).await;
            let open = make::count(&self.store, "SELECT count(*) FROM jobs WHERE ended_at IS NULL").await;
            // Who waits for room that nobody gives back may wait.
            let room = make::count(
                &self.store,
                "SELECT count(*) FROM jobs WHERE ended_at IS NULL AND waiting ->> 'reason' = 'capacity'",
            );
            let behind = make::count(
                &self.store,
                "SELECT count(*) FROM jobs j WHERE ended_at IS NULL AND state = 'blocked' AND EXISTS (
                     SELECT FROM jobs e WHERE e.resource_id = j.resource_id AND e.seq < j.seq AND e.waiting ->> 'reason' = 'capacity')",
            );
            if open == room.await + behind.await {
                let ends =
                    "SELECT count(DISTINCT (kind, action, state)) FROM jobs WHERE ended_at IS NOT NULL";
                let kinds = make::count(&self.store, ends).await;
                assert!(kinds >= 6, "{what}: the walk saw only {kinds} kinds of ends");
                return;
            }
        }
        let left: Vec<(String, serde_json::Value)> =
            sqlx::query_as("SELECT state, to_jsonb(j) FROM jobs j WHERE ended_at IS NULL")
                .fetch_all(self.store.pool())
                .await
                .unwrap();
        panic!(
            "{what}: {} jobs never end, such as {:#?}",
            left.len(),
            left.first()
        );
    }

    async fn resources(&self, tenant: &TenantId, kind: Kind) -> Vec<ResourceRow> {
        let page = Page {
            after: None,
            limit: 1000,
        };
        let scope = Scope::Tenant(tenant.clone());
        self.store
            .resource_list(&scope, kind, &ResourceFilter::default(), &page)
            .await
            .unwrap()
            .rows
    }

    async fn create(&mut self) {
        let tenant = self.tenants.choose(&mut self.rng).unwrap().clone();
        let networks = self.resources(&tenant, Kind::Network).await;
        let images = self.resources(&tenant, Kind::Image).await;
        self.names += 1;
        let name = format!("x{}", self.names);
        let request = match (
            self.rng.random_range(0..6),
            networks.choose(&mut self.rng),
            images.choose(&mut self.rng),
        ) {
            (0, _, _) | (_, None, _) => make::network(&tenant, &name, "10.0.0.0/28"),
            (1, _, _) | (_, _, None) => make::image(&tenant, &name),
            (_, Some(network), Some(image)) => {
                make::instance(&tenant, &name, &image.id.to_string(), &network.id.to_string())
            }
        };
        // Refused where what it refers to failed or goes: that is an answer too.
        let _answer = self.store.accept_creates(&[request]).await.unwrap();
    }

    async fn any(&mut self, kinds: &[Kind]) -> Option<ResourceRow> {
        let tenant = self.tenants.choose(&mut self.rng).unwrap().clone();
        let kind = *kinds.choose(&mut self.rng).unwrap();
        self.resources(&tenant, kind).await.choose(&mut self.rng).cloned()
    }

    async fn change(&mut self) {
        let Some(row) = self.any(&[Kind::Instance, Kind::Instance, Kind::Network]).await else {
            return;
        };
        let mut spec = row.spec.clone();
        let action = if row.kind == Kind::Network {
            spec["dns"] = serde_json::json!(["10.0.0.9"]);
            Action::Update
        } else {
            let action = *[Action::Update, Action::Start, Action::Stop, Action::Reboot]
                .choose(&mut self.rng)
                .unwrap();
            if action == Action::Update {
                spec["vcpus"] = self.rng.random_range(1..4).into();
            }
            row.kind.ops().apply_action(&spec, action).unwrap()["power"].clone_into(&mut spec["power"]);
            action
        };
        let _answer = self
            .store
            .accept_change(&make::change(&row, action, spec))
            .await
            .unwrap();
    }

    async fn delete(&mut self) {
        let Some(row) = self
            .any(&[Kind::Instance, Kind::Instance, Kind::Network, Kind::Image])
            .await
        else {
            return;
        };
        let steps = row
            .kind
            .ops()
            .step_names(Action::Delete, &row.spec, row.applied.as_ref())
            .unwrap();
        let _answer = self
            .store
            .accept_delete(
                &row.tenant,
                row.kind,
                row.id,
                None,
                JobId::new(),
                &steps,
                &make::origin(),
            )
            .await
            .unwrap();
    }

    async fn job(&mut self, query: &'static str) -> Option<(uuid::Uuid, String)> {
        let rows: Vec<(uuid::Uuid, String)> =
            sqlx::query_as(query).fetch_all(self.store.pool()).await.unwrap();
        rows.choose(&mut self.rng).cloned()
    }

    async fn cancel(&mut self) {
        let Some((id, tenant)) = self
            .job("SELECT id, tenant FROM jobs ORDER BY ended_at IS NOT NULL, seq LIMIT 10")
            .await
        else {
            return;
        };
        let _answer = self
            .store
            .accept_cancel(&TenantId(tenant), JobId(id), None, &make::origin())
            .await
            .unwrap();
    }

    async fn retry(&mut self) {
        let query =
            "SELECT id, tenant FROM jobs WHERE state IN ('failed', 'cancelled') ORDER BY seq DESC LIMIT 10";
        let Some((id, tenant)) = self.job(query).await else {
            return;
        };
        let _answer = self
            .store
            .accept_retry(
                &TenantId(tenant),
                JobId(id),
                JobId::new(),
                &["again"],
                None,
                &make::origin(),
            )
            .await
            .unwrap();
    }

    async fn deadline(&mut self) {
        let query =
            "SELECT id, tenant FROM jobs WHERE ended_at IS NULL AND deadline_at IS NOT NULL ORDER BY seq";
        if let Some((id, _)) = self.job(query).await {
            sqlx::query("UPDATE jobs SET deadline_at = now() - interval '1 second' WHERE id = $1")
                .bind(id)
                .execute(self.store.pool())
                .await
                .unwrap();
        }
        self.store.deadlines_pass(Place::START, 100).await.unwrap();
    }

    async fn host_changes(&mut self) {
        let host = self.hosts.choose(&mut self.rng).unwrap().clone();
        let up = if self.rng.random_bool(0.6) {
            Watch::Up
        } else {
            Watch::Down
        };
        self.store.watch_set(make::WATCHER, &host, up).await.unwrap();
    }

    /// The workers of an order died of it.
    async fn poison(&mut self) {
        if let Some(order) = self.out.choose(&mut self.rng).cloned() {
            self.poison_order(&order).await;
        }
    }

    pub async fn poison_order(&mut self, order: &OrderRow) -> bool {
        let tx = self.store.settle_begin(&[order.job]).await.unwrap();
        let moment = Moment {
            now: tx.now,
            roll: self.rng.random(),
            config: &self.config,
        };
        let settlement = tx
            .jobs
            .first()
            .and_then(|job| poisoned(job, Fence(order.fence), moment));
        let counts = settlement.is_some();
        tx.commit(settlement.into_iter().collect()).await.unwrap();
        counts
    }

    async fn abandon(&mut self) {
        let undoing = "SELECT id, tenant FROM jobs WHERE state = 'undoing' ORDER BY seq";
        if let Some((id, _)) = self.job(undoing).await {
            self.store.job_abandon(JobId(id), "tester").await.unwrap();
        }
    }

    pub async fn time_passes(&mut self) {
        sqlx::query("UPDATE jobs SET due = now() WHERE due > now()")
            .execute(self.store.pool())
            .await
            .unwrap();
    }

    pub async fn dispatch(&mut self) {
        self.dispatch_within(LIMITS).await;
    }

    /// One round; the orders that it wrote.
    pub async fn dispatch_within(&mut self, limits: DispatchLimits) -> Vec<OrderRow> {
        self.view.read(&self.store).await.unwrap();
        let Some(batch) = self.store.dispatch_begin(limits).await.unwrap() else {
            return Vec::new();
        };
        let mut decisions = Vec::new();
        for job in &batch.jobs {
            let around = Around {
                refs: batch.refs.get(&job.resource).map_or(&[], Vec::as_slice),
                leases: batch.leases.get(&job.resource).map_or(&[], Vec::as_slice),
                up: &self.view.up,
                stop_timeout_s: 30,
                now: batch.now,
            };
            decisions.push(match decide(job, &around) {
                Ok(Next::Decided(decision)) => match *decision {
                    Decision::Order(order) => match grow(&mut self.view.cluster, job, &order) {
                        None => Decision::Order(order),
                        Some(refusal) => {
                            wait_to_grow(job, &refusal, batch.now + TimeDelta::seconds(15), batch.now)
                        }
                    },
                    decision => decision,
                },
                Ok(Next::Place(to_place)) => match self.view.cluster.place(&to_place.request) {
                    Verdict::Placed(host) => Decision::Order(NewOrder {
                        host,
                        ..to_place.order.clone()
                    }),
                    Verdict::NoRoom(refusal) => {
                        wait_for_room(job, &refusal, batch.now + TimeDelta::seconds(15), batch.now)
                    }
                },
                Err(error) => {
                    eprintln!("no plan: {error}");
                    unplannable(job)
                }
            });
        }
        let outcome = batch.commit(decisions).await.unwrap();
        for order in &outcome.orders {
            self.out.retain(|o| o.job != order.job);
            self.out.push(order.clone());
        }
        outcome.orders
    }

    /// Settles this report alone; how many jobs it changed.
    pub async fn settle_one(&mut self, job: JobId, report: &Report) -> usize {
        let tx = self.store.settle_begin(&[job]).await.unwrap();
        let moment = Moment {
            now: tx.now,
            roll: 0.5,
            config: &self.config,
        };
        let settlements: Vec<_> = tx
            .jobs
            .iter()
            .filter_map(|job| judge(job, report, moment).unwrap())
            .collect();
        let count = settlements.len();
        tx.commit(settlements).await.unwrap();
        count
    }

    pub async fn settle(&mut self, luck: Luck) {
        let mut reports: BTreeMap<JobId, Report> = BTreeMap::new();
        for order in self.out.clone() {
            if luck == Luck::Chance && self.rng.random_bool(0.5) {
                continue;
            }
            if let Some(report) = self.agents.apply(&order, &mut self.rng, luck) {
                reports.insert(order.job, report);
            }
        }
        // A report of before, or one that nobody sent, for a job that moved on.
        if luck == Luck::Chance {
            if let Some(old) = self.old.choose(&mut self.rng) {
                reports
                    .entry(JobId(uuid::Uuid::from_slice(&old.job).unwrap()))
                    .or_insert_with(|| old.clone());
            }
            if let Some(order) = self.out.choose(&mut self.rng) {
                let below = OrderRow {
                    fence: order.fence - 1,
                    ..order.clone()
                };
                reports
                    .entry(order.job)
                    .or_insert_with(|| report(&below, Some(OutcomeKind::Released), true, None));
            }
        }
        let ids: Vec<JobId> = reports.keys().copied().collect();
        let tx = self.store.settle_begin(&ids).await.unwrap();
        let mut settlements = Vec::new();
        for job in &tx.jobs {
            let moment = Moment {
                now: tx.now,
                roll: self.rng.random(),
                config: &self.config,
            };
            settlements.extend(judge(job, &reports[&job.id], moment).unwrap());
        }
        let settled = tx.commit(settlements).await.unwrap();
        self.out.retain(|o| !settled.ended.iter().any(|e| e.job == o.job));
        self.old.extend(reports.into_values());
    }
}
