package smtpx

// TakeEarlyHeads makes a client believe that its relay takes early heads.
func TakeEarlyHeads(c *Client) {
	c.relay.early.mu.Lock()
	defer c.relay.early.mu.Unlock()
	c.relay.early.state = earlyTaken
}

// EarlyHeads tells what a client believes: "untried", "on trial", "taken" or "refused".
func EarlyHeads(c *Client) string {
	c.relay.early.mu.Lock()
	defer c.relay.early.mu.Unlock()
	return [...]string{"untried", "on trial", "taken", "refused"}[c.relay.early.state]
}

// Heard tells whether a connection of a client has something from its server that nobody has read yet: a reply or the end.
func Heard(c *Client) bool {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	for conn := range c.pool.conns {
		if len(conn.replies) > 0 {
			return true
		}
	}
	return false
}

// TokenOf returns the source of tokens that a client made.
func TokenOf(c *Client) TokenSource { return c.relay.Token }
