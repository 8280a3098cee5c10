// Package doctor says what is wrong with an outbox, whom it hits, and what to type next.
//
// [Verdict] is a pure function: it judges a [Snapshot] by [Limits] and returns a [Diagnosis]. It reads no clock, no database and no
// network. outboxctl status, check and doctor, and the readiness of a program, use this one function, so that they never disagree.
package doctor
