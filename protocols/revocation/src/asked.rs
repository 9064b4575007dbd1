//! What was asked before. Clients ask for a popular certificate again and again in the same octets, and proxies fetch it with the
//! same URL: such a question need not be decoded anew, nor the headers of its answer be written anew.
//!
//! Only the question is remembered, never its answer: that comes from the engine each time, which purges it when a status changes.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ca_backend::{OcspQuery, SignedOcsp, Time};
use http::{HeaderMap, Request, Response};

use crate::ocsp;

const SHARDS: usize = 16;
/// Questions that a shard remembers. One that is full begins anew: who fills it with rare ones costs the others a decoding each.
const QUESTIONS_MAX: usize = 512;
/// Octets of the longest question that is remembered, as it was sent. One with SHA-512 in a path has 400.
const OCTETS_MAX: usize = 512;

/// Questions by the octets in which they were asked: a path, or a body.
#[derive(Default)]
pub(crate) struct Asked {
    hasher: RandomState,
    shards: [Mutex<HashMap<u64, Arc<Question>>>; SHARDS],
}

/// A question, and the headers of the answer that it got last.
pub(crate) struct Question {
    octets: Box<[u8]>,
    query: OcspQuery,
    told: Mutex<Option<Told>>,
}

struct Told {
    answer: Arc<SignedOcsp>,
    max_age_s: u64,
    headers: HeaderMap,
}

impl Asked {
    /// The question in these octets, decoded if it was not asked before; `None` if they cannot be.
    pub(crate) fn question(&self, octets: &[u8], decode: impl FnOnce() -> Option<OcspQuery>) -> Option<Arc<Question>> {
        let hash = self.hasher.hash_one(octets);
        let known = self.shard(hash).get(&hash).filter(|known| *known.octets == *octets).cloned();
        if known.is_some() {
            return known;
        }
        let question = Arc::new(Question { octets: octets.into(), query: decode()?, told: Mutex::default() });
        if octets.len() <= OCTETS_MAX && question.query.cache_key().is_some() {
            let mut shard = self.shard(hash);
            if shard.len() >= QUESTIONS_MAX {
                shard.clear();
            }
            shard.insert(hash, Arc::clone(&question));
        }
        Some(question)
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, HashMap<u64, Arc<Question>>> {
        let [first, ..] = &self.shards;
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or_default();
        self.shards.get(index).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question {
    pub(crate) fn query(&self) -> &OcspQuery {
        &self.query
    }

    /// The reply with this answer.
    pub(crate) fn reply(&self, request: &Request<Bytes>, answer: &Arc<SignedOcsp>, now: Time) -> Response<Bytes> {
        let Some(shown) = ocsp::representation(answer, now) else {
            return ocsp::reply(request, answer, now);
        };
        let max_age_s = shown.max_age_s(now);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let headers = match &*told {
            Some(told) if Arc::ptr_eq(&told.answer, answer) && told.max_age_s == max_age_s => told.headers.clone(),
            Some(_) | None => {
                let headers = shown.headers(max_age_s);
                *told = Some(Told { answer: Arc::clone(answer), max_age_s, headers: headers.clone() });
                headers
            }
        };
        drop(told);
        shown.reply_with(request, headers)
    }
}
