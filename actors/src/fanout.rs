//! Asking actors: where they live, what they answer, and asking many at once.

use std::{sync::Arc, time::Duration};

use ractor::{ActorId, ActorRef, Message, MessagingErr, RpcReplyPort};
use tokio::{
    sync::{Semaphore, oneshot, watch},
    task::JoinSet,
};

use crate::protocol::Attempt;

/// How long a successor may be in coming: spawning one takes microseconds.
const SUCCESSION_LIMIT: Duration = Duration::from_secs(10);

/// Where an actor of one role can be reached now. Its supervisor puts the successor here when the actor dies.
pub(crate) struct Address<M>(watch::Receiver<ActorRef<M>>);

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// What came of asking an actor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer<R> {
    /// It answered.
    Reply(R),
    /// It did not answer in time, and may still be at work.
    TimedOut,
    /// It died over the question, or nobody lives at the address any more.
    Died(Option<ActorId>),
}

impl<M: Message> Address<M> {
    pub(crate) const fn new(at: watch::Receiver<ActorRef<M>>) -> Self {
        Self(at)
    }

    /// Sends without asking for an answer. A message to a dead actor is lost, as on a wire.
    pub(crate) fn tell(&self, message: M) {
        let _ = self.0.borrow().cast(message);
    }

    /// Asks whoever lives here now. A question that no actor took is put to the successor; one that an actor took and
    /// died over is not, for it may be the reason.
    pub(crate) async fn ask<R: Send>(
        &self,
        limit: Option<Duration>,
        question: impl FnOnce(RpcReplyPort<R>) -> M,
    ) -> Answer<R> {
        let (reply, answer) = oneshot::channel();
        let mut question = question(reply.into());
        let asked = loop {
            let actor = self.0.borrow().clone();
            match actor.send_message(question) {
                Ok(()) => break actor.get_id(),
                Err(MessagingErr::SendErr(returned)) => question = returned,
                Err(_) => return Answer::Died(None),
            }
            if !self.successor_of(actor.get_id()).await {
                return Answer::Died(None);
            }
        };
        let answer = match limit {
            None => answer.await,
            Some(limit) => match tokio::time::timeout(limit, answer).await {
                Ok(answer) => answer,
                Err(_) => return Answer::TimedOut,
            },
        };
        answer.map_or(Answer::Died(Some(asked)), Answer::Reply)
    }

    /// Asks again under the next attempt for as long as actors die over the question and attempts are left.
    pub(crate) async fn ask_persistently<R: Send>(
        &self,
        max_attempts: u32,
        limit: Option<Duration>,
        question: impl Fn(Attempt, RpcReplyPort<R>) -> M,
    ) -> (Attempt, Answer<R>) {
        let mut attempt = Attempt::FIRST;
        loop {
            let answer = self.ask(limit, |reply| question(attempt, reply)).await;
            let Answer::Died(who) = answer else { return (attempt, answer) };
            let replaced = match who {
                Some(dead) => self.successor_of(dead).await,
                None => false,
            };
            if !replaced || attempt.0 >= max_attempts {
                return (attempt, answer);
            }
            attempt = attempt.next();
        }
    }

    /// Waits until somebody else than `dead` lives here; `false` if nobody will.
    async fn successor_of(&self, dead: ActorId) -> bool {
        let mut here = self.0.clone();
        let successor = here.wait_for(|actor| actor.get_id() != dead);
        tokio::time::timeout(SUCCESSION_LIMIT, successor).await.is_ok_and(|found| found.is_ok())
    }
}

/// Asks an actor that has no successor; `None` if it died.
pub(crate) async fn ask<M: Message, R: Send>(
    actor: &ActorRef<M>,
    question: impl FnOnce(RpcReplyPort<R>) -> M,
) -> Option<R> {
    let (reply, answer) = oneshot::channel();
    actor.send_message(question(reply.into())).ok()?;
    answer.await.ok()
}

/// Runs many conversations, at most `width` at a time, and gives their results as they come.
pub(crate) async fn fan_out<T, F>(
    conversations: impl IntoIterator<Item = F>,
    width: usize,
    mut each: impl FnMut(&T),
) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let turns = Arc::new(Semaphore::new(width));
    let mut talking = JoinSet::new();
    for conversation in conversations {
        let turns = Arc::clone(&turns);
        talking.spawn(async move {
            let _turn = turns.acquire().await;
            conversation.await
        });
    }
    let mut results = Vec::with_capacity(talking.len());
    while let Some(joined) = talking.join_next().await {
        match joined {
            Ok(result) => {
                each(&result);
                results.push(result);
            }
            // Nobody aborts these tasks, so this is a panic: a bug that belongs to whoever fans out.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    results
}
