// Package model holds the tests of claims.pml, a model of the protocol of claims. README.md says what the model covers.
package model
