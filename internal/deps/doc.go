// Package deps holds the test that enforces the import arrows of docs/architecture.md. The arrows say which of our packages may
// import which. The libraries say which of our packages may import which module of other people, and why.
package deps
