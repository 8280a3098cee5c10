package sqlite

// The tests do not wait for a look.
var _ = func() bool {
	lookEvery = 0
	return true
}()
