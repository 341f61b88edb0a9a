//! Lists of jobs by state, against the states themselves.

use rhyzome_model::job::JobState;
use rhyzome_store::Store;
use rhyzome_store::jobs::JobFilter;
use rhyzome_store::resources::{Page, Scope};
use uuid::Uuid;

/// Each state has a list, of a tenant and of all, and what is in it is what is in that state: whatever way the jobs came there.
pub async fn check(store: &Store, what: &str) {
    let scopes = [Scope::Tenant("a".into()), Scope::Operator(None)];
    for state in JobState::ALL.iter().copied().filter(|s| s.shown() == *s) {
        for scope in &scopes {
            let of = match scope {
                Scope::Tenant(tenant) => Some(tenant.to_string()),
                Scope::Operator(_) => None,
            };
            let are: Vec<Uuid> = sqlx::query_scalar(
                "SELECT id FROM jobs WHERE ($1::text IS NULL OR tenant = $1) AND replace(state, 'blocked', 'queued') = $2 ORDER BY id",
            )
            .bind(of)
            .bind(state.as_str())
            .fetch_all(store.pool())
            .await
            .unwrap();
            let mut listed = listed(store, scope, state).await;
            listed.sort_unstable();
            assert_eq!(listed, are, "{what}: {scope:?}, {state}");
        }
    }
}

async fn listed(store: &Store, scope: &Scope, state: JobState) -> Vec<Uuid> {
    let filter = JobFilter {
        target: None,
        state: Some(state),
    };
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = Page { after, limit: 500 };
        let got = store.job_list(scope, &filter, &page).await.unwrap();
        all.extend(got.rows.iter().map(|row| row.id.0));
        after = got.next;
        if after.is_none() {
            return all;
        }
    }
}
