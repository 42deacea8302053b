//! Asking actors: where they live, and what they answer.

use std::time::Duration;

use ractor::{ActorId, ActorRef, Message, MessagingErr, RpcReplyPort};
use tokio::sync::{oneshot, watch};

use crate::protocol::Attempt;

/// How long a successor may be in coming: spawning one takes microseconds.
const SUCCESSION_LIMIT: Duration = Duration::from_secs(10);

/// An order in its envelope: what is asked, and the port for the answer.
#[derive(Debug)]
pub(crate) struct Question<O, R>(pub(crate) O, pub(crate) RpcReplyPort<R>);

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
    pub(crate) async fn ask_with_retry<R: Send>(
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

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use ractor::{Actor, ActorProcessingErr};

    use super::*;

    /// Doubles numbers; dies over 13, and never answers 99.
    struct Doubler;

    struct Double(u32, RpcReplyPort<u32>);

    impl Actor for Doubler {
        type Msg = Double;
        type State = Vec<RpcReplyPort<u32>>;
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<Double>, (): ()) -> Result<Self::State, ActorProcessingErr> {
            Ok(Vec::new())
        }

        async fn handle(
            &self,
            _: ActorRef<Double>,
            Double(number, reply): Double,
            unanswered: &mut Self::State,
        ) -> Result<(), ActorProcessingErr> {
            match number {
                13 => Err("unlucky".into()),
                99 => {
                    unanswered.push(reply);
                    Ok(())
                }
                number => Ok(reply.send(2 * number)?),
            }
        }
    }

    async fn doubler() -> ActorRef<Double> {
        Doubler::spawn(None, Doubler, ()).await.unwrap().0
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_a_reply_a_time_out_or_a_death() {
        let actor = doubler().await;
        let address = Address::new(watch::Sender::new(actor.clone()).subscribe());
        let limit = Some(Duration::from_mins(1));
        assert_eq!(address.ask(limit, |reply| Double(4, reply)).await, Answer::Reply(8));
        assert_eq!(address.ask(limit, |reply| Double(99, reply)).await, Answer::TimedOut);
        assert_eq!(address.ask(limit, |reply| Double(13, reply)).await, Answer::Died(Some(actor.get_id())));
        // Nobody will ever succeed it: its supervisor's end of the address is gone.
        actor.stop_and_wait(None, None).await.ok();
        assert_eq!(address.ask(limit, |reply| Double(4, reply)).await, Answer::Died(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_no_actor_took_waits_for_the_successor() {
        let dead = doubler().await;
        dead.stop_and_wait(None, None).await.unwrap();
        let post = watch::Sender::new(dead);
        let address = Address::new(post.subscribe());
        let asked = tokio::spawn(async move { address.ask(None, |reply| Double(21, reply)).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!asked.is_finished());
        post.send_replace(doubler().await);
        assert_eq!(asked.await.unwrap(), Answer::Reply(42));
    }

    #[tokio::test(start_paused = true)]
    async fn asking_ends_with_the_attempts() {
        let post = Arc::new(watch::Sender::new(doubler().await));
        let address = Address::new(post.subscribe());
        let attempts = AtomicUsize::new(0);
        let question = |_, reply| {
            attempts.fetch_add(1, Ordering::SeqCst);
            let post = Arc::clone(&post);
            // Stands for a supervisor: the successor arrives after the death.
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                post.send_replace(doubler().await);
            });
            Double(13, reply)
        };
        let (attempt, answer) = address.ask_with_retry(3, None, question).await;
        assert!(matches!((attempt, answer), (Attempt(3), Answer::Died(Some(_)))));
        assert_eq!(attempts.load(Ordering::SeqCst), 3);
    }
}
