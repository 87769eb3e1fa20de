use std::collections::VecDeque;
use std::time::Duration;

use crate::event::budget::Limit;

/// Counts requests of the last `buckets + 1` buckets, which is never less than any window of `buckets` buckets.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) limit: Limit,
    bucket: Duration,
    buckets: u64,
    counts: VecDeque<Bucket>,
    all: u32,
    others: u32,
}

#[derive(Debug)]
struct Bucket {
    index: u64,
    all: u32,
    others: u32,
}

impl Window {
    pub(super) fn new(limit: Limit, span: Duration, buckets: u32) -> Self {
        Self { limit, bucket: span / buckets, buckets: u64::from(buckets), counts: VecDeque::new(), all: 0, others: 0 }
    }

    fn index(&self, elapsed: Duration) -> u64 {
        u64::try_from(elapsed.as_nanos() / self.bucket.as_nanos()).unwrap_or(u64::MAX)
    }

    fn forget_old(&mut self, elapsed: Duration) {
        let now = self.index(elapsed);
        while let Some(front) = self.counts.front()
            && front.index + self.buckets < now
        {
            self.all -= front.all;
            self.others -= front.others;
            self.counts.pop_front();
        }
    }

    /// When the oldest bucket is forgotten, where there is no room now.
    pub(super) fn full_until(&mut self, elapsed: Duration, others: bool) -> Option<Duration> {
        self.forget_old(elapsed);
        let full = self.all >= self.limit.all || (others && self.others >= self.limit.others);
        let oldest = self.counts.front()?;
        full.then(|| {
            let past = u32::try_from(oldest.index + self.buckets + 1).unwrap_or(u32::MAX);
            self.bucket.saturating_mul(past)
        })
    }

    pub(super) fn add(&mut self, elapsed: Duration, others: bool) {
        let index = self.index(elapsed);
        if self.counts.back().is_none_or(|last| last.index != index) {
            self.counts.push_back(Bucket { index, all: 0, others: 0 });
        }
        if let Some(last) = self.counts.back_mut() {
            last.all += 1;
            last.others += u32::from(others);
        }
        self.all += 1;
        self.others += u32::from(others);
    }

    pub(super) fn take_back(&mut self, elapsed: Duration, others: bool) {
        let index = self.index(elapsed);
        // One that was forgotten, or counted before the limits were changed, is not there any more.
        if let Some(bucket) = self.counts.iter_mut().rfind(|bucket| bucket.index == index && bucket.all > 0) {
            bucket.all -= 1;
            self.all -= 1;
            if others && bucket.others > 0 {
                bucket.others -= 1;
                self.others -= 1;
            }
        }
    }

    /// How many of the streams, and of others, it holds.
    pub(super) fn counted(&mut self, elapsed: Duration) -> (u32, u32) {
        self.forget_old(elapsed);
        (self.all - self.others, self.others)
    }

    pub(super) fn remaining(&mut self, elapsed: Duration) -> u32 {
        self.forget_old(elapsed);
        self.limit.all.saturating_sub(self.all)
    }
}
