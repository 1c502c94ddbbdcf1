package pki

import (
	"fmt"
	"io"
	"log"
	"strings"
	"testing"
)

func discard() *log.Logger { return log.New(io.Discard, "", 0) }

func TestTokensRoundTrip(t *testing.T) {
	j := NewJoinToken(newTestCA(t).Pin())
	if got, err := ParseJoinToken(" " + j.Reveal() + "\n"); err != nil || got != j {
		t.Errorf("join token: %v %v", got, err)
	}
	u := NewUserToken()
	if got, err := ParseUserToken(u.Reveal() + "\n"); err != nil || got != u {
		t.Errorf("user token: %v %v", got, err)
	}
	for _, s := range []string{fmt.Sprint(j), fmt.Sprint(u), fmt.Sprintf("%+v %s", u, j)} {
		if strings.Contains(s, j.Secret) || strings.Contains(s, u.Secret) {
			t.Errorf("%q shows a secret", s)
		}
	}
	if !HashMatches(u.Hash(), u.Secret) || HashMatches(u.Hash(), "other") || HashMatches("", u.Secret) {
		t.Error("hash compares wrong")
	}
}

func TestTokenErrorsSayWhatIsWrong(t *testing.T) {
	pin, id, secret := strings.Repeat("ab", 32), "t123", strings.Repeat("c", 48)
	for in, want := range map[string]string{
		"":                                   "it is empty",
		"hello":                              "does not start with CJ1.",
		"ct_1_2":                             "this is a user token",
		"CJ1." + pin:                         "have 2: was it cut",
		"CJ1.zz.x.y":                         "its pin must be 64 characters",
		"CJ1." + pin + ".1." + secret:        "its id must be the name of a token",
		"CJ1." + pin + "." + id + "." + "cc": "its secret must be 48 characters of 0-9 and a-f, this one has 2",
	} {
		if _, err := ParseJoinToken(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", in, err, want)
		}
	}
	for in, want := range map[string]string{
		"":                              "it is empty",
		"CJ1.a.b.c":                     "this is a join token",
		"nope":                          "does not start with ct_",
		"ct_" + id:                      "have 2: was it cut",
		"ct_" + id + "_" + secret[:39]:  "its secret must be 40 to 128 letters and digits: was it cut",
		"ct_" + id + "_" + secret + "-": "its secret must be 40 to 128 letters and digits",
	} {
		if _, err := ParseUserToken(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", in, err, want)
		}
	}
}

// What parses is exactly what prints: a token has one spelling.
func FuzzParseToken(f *testing.F) {
	f.Add(JoinToken{Pin: strings.Repeat("ab", 32), ID: "ci-1", Secret: strings.Repeat("c", 48)}.Reveal())
	f.Add(NewUserToken().Reveal())
	f.Add("CJ1....")
	f.Add("ct__")
	f.Fuzz(func(t *testing.T, s string) {
		if j, err := ParseJoinToken(s); err == nil && j.Reveal() != strings.TrimSpace(s) {
			t.Errorf("%q became %q", s, j.Reveal())
		}
		if u, err := ParseUserToken(s); err == nil && u.Reveal() != strings.TrimSpace(s) {
			t.Errorf("%q became %q", s, u.Reveal())
		}
	})
}
