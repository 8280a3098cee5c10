package smtpx

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// job is one call of Send on its way through the pool. Send and the pool own it until a connection takes it. That connection
// then owns it until done is closed.
type job struct {
	ctx  context.Context //nolint:containedctx // a job lives exactly as long as its call of Send
	env  Envelope
	from address
	to   []address
	body body

	todo      []int     // recipients without an outcome
	committed bool      // the hook was called and agreed
	restarted bool      // the connection ended while a hook ran, or was used up, and another took the job
	resized   bool      // the message was refused because of its number of recipients
	began     time.Time // when a connection took it first
	res       Result
	done      chan struct{}

	early *earlyCommit // of a job whose head left early; set before it is offered

	state jobState // guarded by pool.mu
}

// commitFresh is how long the answer of a hook that was called early holds.
const commitFresh = 5 * time.Second

// earlyCommit is a call of Envelope.Commit that began when the head of the job left. The answer stays with the job, whichever
// connection sends it.
type earlyCommit struct {
	began time.Time
	done  chan struct{}
	err   error
}

// commitEarly calls the hook while the connection waits for the reply to the message before.
func (j *job) commitEarly() {
	if j.env.Commit == nil || j.committed || j.early != nil {
		return
	}
	early := &earlyCommit{began: time.Now(), done: make(chan struct{})}
	j.early = early
	go func() {
		defer close(early.done)
		early.err = j.env.Commit(j.ctx)
	}()
}

// commit calls the hook, or takes the answer of an early call that is fresh.
func (j *job) commit() error {
	if j.committed || j.env.Commit == nil {
		return nil
	}
	if early := j.early; early != nil {
		<-early.done
		j.early = nil
		if early.err != nil {
			return early.err
		}
		if j.committed = time.Since(early.began) < commitFresh; j.committed {
			return nil
		}
	}
	if err := j.env.Commit(j.ctx); err != nil {
		return err
	}
	j.committed = true
	return nil
}

// awaitHook returns when no hook runs any more. No hook may run after Send has returned.
func (j *job) awaitHook() {
	if j.early != nil {
		<-j.early.done
	}
}

type jobState int

const (
	jobWaiting jobState = iota // in the queue of the pool
	jobOffered                 // its head left behind the final dot of another; it may still be withdrawn
	jobTaken                   // a connection works on it and watches its context
	jobGone                    // withdrawn by Send
)

// newJob checks the message and the addresses. On an error it still returns a job that can be finished.
func newJob(ctx context.Context, env Envelope, check func() (body, error)) (*job, *Error) {
	j := &job{ctx: ctx, env: env, done: make(chan struct{})}
	j.res.Outcomes = make([]Outcome, len(env.To))
	for i, to := range env.To {
		j.res.Outcomes[i].Recipient = to
	}
	if len(env.To) == 0 {
		return j, &Error{Stage: StageRcpt, Class: ClassMessage, Err: errors.New("no recipients")}
	}
	var err error
	if j.body, err = check(); errors.Is(err, errSource) {
		return j, notSent(StageData, err)
	} else if err != nil {
		return j, &Error{Stage: StageData, Class: ClassMessage, Err: err}
	}
	if err = env.DSN.check(len(env.To)); err != nil {
		return j, &Error{Stage: StageMail, Class: ClassMessage, Err: err}
	}
	if env.From != "" {
		if j.from, err = parseAddress(env.From); err != nil {
			return j, &Error{Stage: StageMail, Class: ClassMessage, Err: fmt.Errorf("sender: %w", err)}
		}
	}
	j.to = make([]address, len(env.To))
	j.todo = make([]int, 0, len(env.To))
	for i, to := range env.To {
		if j.to[i], err = parseAddress(to); err != nil {
			j.res.Outcomes[i].Err = &Error{Stage: StageRcpt, Class: ClassRecipient, Rule: "client.address", Err: err}
			continue
		}
		j.todo = append(j.todo, i)
	}
	return j, nil
}

// fail gives every recipient that has no outcome the same error.
func (j *job) fail(err *Error) {
	for _, i := range j.todo {
		j.res.Outcomes[i].Err = err
	}
	j.todo = nil
}

// finish ends a job that no connection holds.
func (j *job) finish(err *Error) (Result, error) {
	if err != nil {
		for i := range j.res.Outcomes {
			if j.res.Outcomes[i].Err == nil && !j.res.Outcomes[i].Accepted {
				j.res.Outcomes[i].Err = err
			}
		}
		if len(j.res.Outcomes) == 0 {
			return j.res, err
		}
	}
	return j.result()
}

func (j *job) result() (Result, error) {
	for i := range j.res.Outcomes {
		if err := j.res.Outcomes[i].Err; err != nil {
			return j.res, err
		}
	}
	return j.res, nil
}

// report describes the outcome of the job to an observer.
func (j *job) report(host string, start time.Time, err error) MessageDone {
	m := MessageDone{Host: host, Recipients: len(j.res.Outcomes), Size: j.body.size(), Duration: time.Since(start), Err: err}
	m.Waited = m.Duration
	if !j.began.IsZero() {
		m.Waited = j.began.Sub(start)
	}
	for _, o := range j.res.Outcomes {
		if o.Accepted {
			m.Accepted++
		}
	}
	return m
}

// gaveUp returns the error of a message whose context was done before it could be accepted. After a timeout an immediate retry
// would probably time out, too.
func gaveUp(stage Stage, cause error) *Error {
	if errors.Is(cause, context.DeadlineExceeded) {
		return &Error{Stage: stage, Class: ClassTransient, Err: cause}
	}
	return notSent(stage, cause)
}

// notSent returns the error of a message that the client gave up. Nothing was sent, and nothing is wrong with the relay.
func notSent(stage Stage, cause error) *Error {
	return &Error{Stage: stage, Class: ClassRecycle, Err: cause}
}
