package smtpx

// Profile is what is known of a provider.
type Profile struct {
	// Name is the provider's short name, "generic" for none.
	Name string
	// Rules are tried before the generic ones, in their order.
	Rules []Rule
}

var generic = &Profile{Name: "generic"}
