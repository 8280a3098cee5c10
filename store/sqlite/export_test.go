package sqlite

func init() { lookEvery = 0 } // the tests do not wait for a look
