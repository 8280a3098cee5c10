package smtpx

import (
	"errors"

	"github.com/xdg-go/stringprep"
)

// queryProfile is SASLprep (RFC 4013) for strings that are looked up. It allows characters that Unicode 3.2 did not have.
// stringprep.SASLprep, which is for strings that are stored, forbids them.
var queryProfile = stringprep.Profile{
	Mappings:  stringprep.SASLprep.Mappings,
	Normalize: true,
	Prohibits: []stringprep.Set{
		stringprep.TableC1_2, stringprep.TableC2_1, stringprep.TableC2_2, stringprep.TableC3, stringprep.TableC4, stringprep.TableC5,
		stringprep.TableC6, stringprep.TableC7, stringprep.TableC8, stringprep.TableC9,
	},
	CheckBiDi: true,
}

// prepareUser and preparePassword prepare a user name and a password for SCRAM (RFC 5802 §5.1 and §2.2). Their errors quote
// nothing.
func prepareUser(s string) (string, error) {
	p, err := queryProfile.Prepare(s)
	if err != nil || p == "" {
		return "", errors.New("the user name has characters that SCRAM does not allow (RFC 4013)")
	}
	return p, nil
}

func preparePassword(s string) (string, error) {
	p, err := stringprep.SASLprep.Prepare(s)
	if err != nil {
		return "", errors.New("the password has characters that SCRAM does not allow (RFC 4013): change it, or choose another mechanism")
	}
	return p, nil
}
