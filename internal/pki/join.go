package pki

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// JoinRequest is the body of POST /v1/join.
type JoinRequest struct {
	ID      string `json:"id"`             // of the join token
	Secret  string `json:"secret"`         // of the join token
	Role    Role   `json:"role,omitempty"` // node, unless it says server
	Name    string `json:"name"`
	Address string `json:"address"` // where peers reach the node; of a server, host:port of its API
	CSR     string `json:"csr"`     // PEM
	// Labels the node begins with; a node that exists keeps its own.
	Labels map[string]string `json:"labels,omitempty"`
	// Gossip and Peer are where the others reach a server's gossip and store. One
	// without Peer keeps no store: it uses the etcd that the others use.
	Gossip string `json:"gossip,omitempty"`
	Peer   string `json:"peer,omitempty"`
	Level  int    `json:"level,omitempty"` // that a server knows, see api.Level
	// Program asks, such as nodeagent/0.1.0: it is the User-Agent, and recorded.
	Program string `json:"-"`
}

// JoinResponse answers POST /v1/join and, without Node changed,
// POST /v1/renew.
type JoinResponse struct {
	Certificate string      `json:"certificate"` // PEM
	CA          string      `json:"ca"`          // PEM bundle
	GossipKeys  [][]byte    `json:"gossip_keys"` // base64 in JSON; the last is spoken
	Node        JoinNode    `json:"node"`
	Cluster     JoinCluster `json:"cluster"`
	Servers     []string    `json:"servers"` // host:port of every API server
	Server      *JoinServer `json:"server,omitempty"`
}

// JoinServer is what only a server is told that joins.
type JoinServer struct {
	Keys    json.RawMessage   `json:"keys"`              // all that the servers share, their CA's key among it
	Members map[string]string `json:"members,omitempty"` // of the store: name to host:port, the new one included
}

// JoinNode is the node that a join created.
type JoinNode struct {
	Name   string `json:"name"`
	Subnet string `json:"subnet"` // CIDR its pods' addresses come from
}

// JoinCluster is what every member has to know of the network.
type JoinCluster struct {
	PodsCIDR     string `json:"pods_cidr"`
	ServicesCIDR string `json:"services_cidr"`
}

// RenewRequest is the body of POST /v1/renew; who asks is in the client
// certificate of the connection.
type RenewRequest struct {
	CSR string `json:"csr"` // PEM
}

// JoinResult is the identity and the place in the cluster that a join gave.
type JoinResult struct {
	Identity *Identity // in memory: Save it
	JoinResponse
}

// RefusedError is the server's considered no. Trying again with the same
// token or certificate does not help.
type RefusedError struct {
	Status int
	Detail string
}

func (e *RefusedError) Error() string { return fmt.Sprintf("refused (%d): %s", e.Status, e.Detail) }

// PinError says that somebody else's server answered.
type PinError struct{ Want, Have string }

func (e *PinError) Error() string {
	return fmt.Sprintf("the server's CA does not match the token's pin: the token says %.16s…, the server has %.16s…: is the address right, and the token from this cluster?", e.Want, e.Have)
}

// Join asks the server at addr (host:port) to let a machine in, and trusts it only
// if its CA is the one token is pinned to. The secret is sent only after that
// check. What of req proves who asks is filled in here.
func Join(ctx context.Context, addr string, token JoinToken, req JoinRequest) (*JoinResult, error) {
	key, csr, err := newRequest()
	if err != nil {
		return nil, err
	}
	var resp JoinResponse
	name := req.Name
	req.ID, req.Secret, req.CSR = token.ID, token.Secret, string(csr)
	if err := post(ctx, pinnedTLS(token.Pin), "https://"+addr+"/v1/join", req.Program, req, &resp); err != nil {
		return nil, fmt.Errorf("join %s as %s: %w", addr, name, err)
	}
	err = checkPin([]byte(resp.CA), token.Pin)
	id := &Identity{}
	if err == nil {
		err = id.install(key, []byte(resp.Certificate), []byte(resp.CA))
	}
	if err != nil {
		return nil, fmt.Errorf("join %s as %s: the answer: %w", addr, name, err)
	}
	return &JoinResult{Identity: id, JoinResponse: resp}, nil
}

// Renew gets a new certificate with a new key for id from the server at addr
// (host:port) and swaps it in. Program is that of a JoinRequest.
func Renew(ctx context.Context, addr, program string, id *Identity) (*JoinResponse, error) {
	key, csr, err := newRequest()
	if err != nil {
		return nil, err
	}
	var resp JoinResponse
	if err := post(ctx, id.ClientTLS(), "https://"+addr+"/v1/renew", program, RenewRequest{CSR: string(csr)}, &resp); err != nil {
		return nil, fmt.Errorf("renew at %s: %w", addr, err)
	}
	fresh := &Identity{}
	if err := fresh.install(key, []byte(resp.Certificate), []byte(resp.CA)); err != nil {
		return nil, fmt.Errorf("renew at %s: the answer: %w", addr, err)
	}
	return &resp, id.replace(fresh)
}

// pinnedTLS trusts the server whose certificate chain ends in the CA with that
// pin, and nothing else: how a machine that has only a token dials.
func pinnedTLS(want string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection is stricter than the stock check
		VerifyConnection: func(cs tls.ConnectionState) error {
			ca := pinned(cs.PeerCertificates, want)
			if ca == nil {
				return &PinError{Want: want, Have: pin(cs.PeerCertificates[len(cs.PeerCertificates)-1])}
			}
			roots := x509.NewCertPool()
			roots.AddCert(ca)
			return verifyServer(cs, roots)
		},
	}
}

// pinned is the certificate of the authority with that pin.
func pinned(chain []*x509.Certificate, want string) *x509.Certificate {
	for _, c := range chain[1:] {
		if c.IsCA && pin(c) == want {
			return c
		}
	}
	return nil
}

// checkPin demands that a bundle of authorities (PEM) has the one with that pin.
func checkPin(bundle []byte, want string) error {
	have := "none"
	for _, der := range certs(bundle) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("CA certificate: %w", err)
		}
		if have = pin(c); have == want {
			return nil
		}
	}
	return &PinError{Want: want, Have: have}
}

func post(ctx context.Context, conf *tls.Config, url, program string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if program != "" {
		req.Header.Set("User-Agent", program)
	}
	tr := &http.Transport{TLSClientConfig: conf, TLSHandshakeTimeout: 10 * time.Second}
	defer tr.CloseIdleConnections()
	// A token's secret goes where it was sent and nowhere else.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := (&http.Client{Transport: tr, CheckRedirect: stay}).Do(req)
	if err != nil {
		// The URL of *url.Error would only repeat what the caller says.
		if p, ok := errors.AsType[*PinError](err); ok {
			return p
		}
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		var problem struct{ Title, Detail string }
		if json.Unmarshal(b, &problem); problem.Detail == "" {
			problem.Detail = problem.Title
		}
		if problem.Detail == "" {
			problem.Detail = http.StatusText(resp.StatusCode)
		}
		if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
			return fmt.Errorf("%d: %s", resp.StatusCode, problem.Detail)
		}
		return &RefusedError{Status: resp.StatusCode, Detail: problem.Detail}
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}
