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
