//! Asking the planner.

use anyhow::Result;
use kache_remote::http::Post;
use serde::Serialize;

use super::{Answer, Ask, Learn, Planner, http};

impl Planner {
    pub async fn ask(&self, ask: &Ask) -> Result<Answer> {
        Ok(serde_json::from_slice(&self.post("/v1/plan", ask).await?)?)
    }

    pub async fn learn(&self, learn: &Learn) -> Result<()> {
        self.post("/v1/learn", learn).await.map(drop)
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> Result<Vec<u8>> {
        let url = format!("{}{path}", self.endpoint.trim_end_matches('/'));
        let post = Post {
            url: &url,
            token: self.token.as_ref(),
            certificates: self.certificates.as_deref(),
            timeout: self.timeout,
            limit: http::MAX_BODY as usize,
        };
        Ok(post.send(serde_json::to_vec(body)?).await?)
    }
}
