package registry

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const hex = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestNormalize(t *testing.T) {
	for name, want := range map[string]string{
		"nginx":                 "docker.io/library/nginx:latest",
		"team/web:2":            "docker.io/team/web:2",
		"r.example:5000/a/b":    "r.example:5000/a/b:latest",
		"nginx:1@sha256:" + hex: "docker.io/library/nginx@sha256:" + hex,
	} {
		if got, err := Normalize(name); err != nil || got.String() != want {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
	if _, err := Normalize("NGINX:"); err == nil {
		t.Error("took NGINX:")
	}
}

// serve is a registry on loopback. With a password, it wants ada's.
func serve(t *testing.T, password string) (host string) {
	t.Helper()
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); password != "" && (u != "ada" || p != password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
			http.Error(w, "you sent "+r.Header.Get("Authorization"), http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// push puts another image at a tag, host/repository:tag, each time.
func push(t *testing.T, image string, as Credentials) (digest string) {
	t.Helper()
	host, rest, _ := strings.Cut(image, "/")
	repository, tag, _ := strings.Cut(rest, ":")
	body := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[],"annotations":{"of":%q}}`, v1.MediaTypeImageIndex, rand.Text())
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+host+"/v2/"+repository+"/manifests/"+tag, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", v1.MediaTypeImageIndex)
	req.SetBasicAuth(as.Username, as.Password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status)
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(body)))
}

func client(t *testing.T) *Client {
	t.Helper()
	c, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A digest is what the tag has now; one that is asked for by digest is the same.
func TestDigestFollowsTheTag(t *testing.T) {
	c, image := client(t), serve(t, "")+"/team/web:1"
	for range 2 {
		want := push(t, image, Credentials{})
		for _, ref := range []string{image, image + "@" + want} {
			if got, err := c.Digest(t.Context(), ref, Credentials{}); err != nil || got != want {
				t.Errorf("%s: %s %v, want %s", ref, got, err, want)
			}
		}
	}
	_, err := c.Digest(t.Context(), strings.Replace(image, "web", "nope", 1), Credentials{})
	if trouble, ok := errors.AsType[*Trouble](err); !ok || trouble.Refused || trouble.Silent || trouble.Message != "the registry has no such image" {
		t.Errorf("%#v", err)
	}
}

// Credentials open what is not for everybody; wrong ones are told from a
// registry that is not there, and are in no error, whatever the registry says.
func TestCredentialsAreShownAndNotTold(t *testing.T) {
	c, image := client(t), serve(t, "sesame")+"/team/web:1"
	digest := push(t, image, Credentials{"ada", "sesame"})
	if got, err := c.Digest(t.Context(), image, Credentials{"ada", "sesame"}); err != nil || got != digest {
		t.Errorf("%s %v", got, err)
	}
	for _, as := range []Credentials{{}, {"ada", "hunter2"}} {
		_, err := c.Digest(t.Context(), image, as)
		trouble, ok := errors.AsType[*Trouble](err)
		if !ok || !trouble.Refused || trouble.Silent || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "YWRhOmh1bnRlcjI") {
			t.Errorf("as %s: %v", as.Username, err)
		}
	}
}

// That nobody answers is known: of a name that does not exist, of a port that is
// closed, and of one that says nothing.
func TestSilence(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	c := client(t)
	for _, host := range []string{mute.Addr().String(), closed.Addr().String()} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := c.Digest(ctx, host+"/web:1", Credentials{})
		cancel()
		if trouble, ok := errors.AsType[*Trouble](err); !ok || !trouble.Silent {
			t.Errorf("%s: %#v", host, err)
		}
	}
	if trouble := Explain(&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "example.test", IsNotFound: true}}); !trouble.Silent || !strings.Contains(trouble.Message, "no such host") {
		t.Errorf("%+v", trouble)
	}
}
