// Package queue holds the values that travel between a store, which keeps deliveries, and a dispatcher, which sends them.
// An application that enqueues needs none of them.
//
// A store hands out deliveries as a [Claimed], asked for with a [ClaimRequest]. Each carries a token in its [Ref]. A
// dispatcher gives every ref back with one [Settlement] under that token. A token whose lease lapsed changes nothing.
//
// The package imports nothing of this module and has no state. Its values are safe to share while nobody changes them.
package queue
