// Package deps holds the test that enforces the import arrows of docs/architecture.md: which of our packages may import
// which, and what of other people's code each of them may link.
package deps
