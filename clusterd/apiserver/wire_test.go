package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// pair is a server over real TLS with two nodes that have joined, each with a pod,
// and the pod with a secret, a config and a volume.
type pair struct {
	*tlsCluster
	wire   map[string]*http.Client // by node, with its certificate
	hash   map[string]string       // of "secret/x-w1", and so on
	agents map[string]*asked
}

// asked is an agent that answers everything, and counts.
type asked struct{ atomic.Int32 }

func (a *asked) RoundTrip(r *http.Request) (*http.Response, error) {
	a.Add(1)
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: r}, nil
}

func startPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{wire: map[string]*http.Client{}, hash: map[string]string{}, agents: map[string]*asked{"w1": {}, "w2": {}}}
	tunnels := &agents{nodes: map[string]*http.Client{}}
	p.tlsCluster = startTLS(t, Config{Tunnels: tunnels})
	ctx := t.Context()
	tok := p.token(t, api.TokenSpec{MaxUses: 2})
	for _, n := range []string{"w1", "w2"} {
		res, err := pki.Join(ctx, p.addr, tok, pki.JoinRequest{Name: n, Address: "10.0.0.1:7946"})
		if err != nil {
			t.Fatal(err)
		}
		tunnels.nodes[n] = &http.Client{Transport: p.agents[n]}
		tr := &http.Transport{TLSClientConfig: res.Identity.ClientTLS(), ForceAttemptHTTP2: true}
		t.Cleanup(tr.CloseIdleConnections)
		p.wire[n] = &http.Client{Transport: tr}
		o := must(client.Of(p.system, api.Nodes).Get(ctx, "", n))(t)
		o.Status.Allocatable = api.Resources{CPU: "2", Memory: "1Gi", Pods: 100}
		must(client.Of(p.system, api.Nodes).PutStatus(ctx, o))(t)
		for _, k := range api.Kinds { // one of each kind that is this node's, or nobody's
			i, name := k.Info(), "x-"+n
			if slices.Contains([]string{"Node", "Pod", "Content", "Events"}, i.Name) {
				continue
			}
			spec := map[string]string{"Secret": `{"data":{"k":"hunter2 of ` + n + `"}}`, "Config": `{"data":{"k":"` + n + `"}}`}[i.Name]
			if spec == "" {
				spec = sample(i)
			}
			put(t, p.Server, client.Path(i, api.DefaultNamespace, name), `{"spec":`+spec+`}`, 201)
		}
		pod := &api.Pod{Meta: api.Meta{Name: "x-" + n, Namespace: "default"}}
		pod.Spec.Container = api.Container{Image: "nginx:1", CPU: "10m", Memory: "16Mi", Mounts: map[string]api.Mount{"/d": {Volume: "x-" + n}}}
		p.hash["secret/x-"+n] = must(client.Of(p.system, api.Secrets).Get(ctx, "default", "x-"+n))(t).Spec.Hash
		p.hash["config/x-"+n] = api.ConfigHash("config/x-"+n, map[string]string{"k": n})
		pod.Spec.Contents = map[string]string{"secret/x-" + n: p.hash["secret/x-"+n], "config/x-" + n: p.hash["config/x-"+n]}
		must(client.Of(p.system, api.Pods).Create(ctx, pod))(t)
		bindPod(t, p.system, "x-"+n, n)
		if err := p.writeRing(ctx, api.Pods.Ref("default", "x-"+n), []api.Event{{Reason: "told"}}); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// ask sends a request with the certificate of node, and returns how the answer
// begins: that of a watch has no end.
func (p *pair) ask(t *testing.T, node, method, path, body string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "https://"+p.addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.wire[node].Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	if strings.Contains(path, "watch=true") && resp.StatusCode == http.StatusOK {
		return resp.StatusCode, ""
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, string(b)
}

// state is at which revision each key of the store was written, but for those
// that end with a name, and what the server keeps for itself.
func (p *pair) state(t *testing.T, but string) map[string]int64 {
	t.Helper()
	page, err := p.store.List(t.Context(), store.Range{Prefix: root})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]int64{}
	for _, e := range page.Entries {
		if !strings.HasSuffix(e.Key, but) && !strings.HasPrefix(e.Key, root+".") {
			all[e.Key] = e.Revision
		}
	}
	return all
}

// request is one to rt about what is node's, as the server would take it from
// somebody who may. A list of pods or volumes is one of those of the node.
func (p *pair) request(rt route, node string) (path, body string) {
	name, of := "x-"+node, ""
	switch {
	case rt.kind == nil:
	case rt.kind.info.Plural == "nodes":
		name = node
	case rt.kind.info.Plural == "contents":
		name = api.ContentName("secret/x-"+node, p.hash["secret/x-"+node])
	case rt.kind.info.Plural == "events":
		name = api.EventsOf(api.Pods.Ref("default", "x-"+node)).Name
	default:
		of = strings.ToLower(rt.kind.info.Name) + "/x-" + node
	}
	path = strings.NewReplacer("{namespace}", "default", "{name}", name, "{hash}", p.hash[of], "{what}", "secrets").Replace(rt.path)
	switch {
	case rt.verb == "list" && slices.Contains(rt.kind.info.Indexes, "node"):
		path += "?node=" + node
	case strings.HasSuffix(rt.path, "/drained"):
		path += "?timeout=0s"
	case rt.path == "/v1/images" && rt.method == "DELETE":
		path += "?reference=nginx:1"
	}
	switch {
	case rt.path == "/v1/batch":
		body = `{"writes":[{"status":{"kind":"Pod","meta":{"name":"x-` + node + `","namespace":"default"},"status":{"phase":"running"}}}]}`
	case rt.path == "/v1/events":
		body = `{"subject":{"kind":"Pod","namespace":"default","name":"x-` + node + `"},"event":{"reason":"r"}}`
	case rt.verb == "put" || rt.verb == "plan":
		body = `{"spec":` + sample(rt.kind.info) + `}`
	case rt.verb == "status":
		body = `{"status":{}}`
	case rt.doc.in != nil:
		body = `{}`
	}
	return path, body
}

// ofAll is what a node may of what belongs to nobody, or to any node.
var ofAll = []string{
	"GET /v1/nodes", "GET /v1/nodes/{name}", "GET /v1/servers", "GET /v1/servers/{name}", "GET /v1/images", "GET /v1/images/{name}", "GET /v1/images/{name}/archive",
	"GET /v1/namespaces", "GET /v1/namespaces/{name}", "GET /v1/services", "GET /v1/namespaces/{namespace}/services", "GET /v1/namespaces/{namespace}/services/{name}",
	"GET /v1/endpoints", "GET /v1/namespaces/{namespace}/endpoints", "GET /v1/namespaces/{namespace}/endpoints/{name}",
	"GET /v1/openapi.json", "GET /metrics", "GET /healthz", "GET /readyz", "POST /v1/renew", "GET /v1/tunnel", // its own, whatever is asked
	"POST /v1/join", // with a token only
}

// ofItsOwn is what it may besides, of itself, its pods and volumes.
var ofItsOwn = []string{
	"GET /v1/pods", "GET /v1/namespaces/{namespace}/pods", "GET " + onePod, "GET " + onePod + "/usage", "GET " + onePod + "/drained", "PUT " + onePod + "/status",
	"GET /v1/volumes", "GET /v1/namespaces/{namespace}/volumes", "GET /v1/namespaces/{namespace}/volumes/{name}", "PUT /v1/namespaces/{namespace}/volumes/{name}/data",
	"GET /v1/namespaces/{namespace}/secrets/{name}/versions/{hash}", "GET /v1/namespaces/{namespace}/configs/{name}/versions/{hash}",
	"PUT /v1/nodes/{name}/status", "POST /v1/nodes/{name}/applied", "POST /v1/nodes/{name}/lease", "POST /v1/batch", "POST /v1/events",
}

// otherwise is how what a node may ends here, if not well.
var otherwise = map[string]int{
	"POST /v1/join": 422, "POST /v1/renew": 422, // the request is empty
	"POST /v1/nodes/{name}/lease": 503, "GET /metrics": 404, "GET /v1/images/{name}/archive": 409, // nobody leads, measures, or has it
}

// TestANodeOnEveryRoute: with the certificate it got by joining, over TLS, a node
// is refused what is another's, by every route there is: nothing of that changes,
// and the other's agent hears nothing of it. It gets what is its own.
func TestANodeOnEveryRoute(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	before := p.state(t, "w1")
	for _, node := range []string{"w2", "w1"} { // what is not its own first
		for _, rt := range p.routes() {
			what := rt.method + " " + rt.path
			may := slices.Contains(ofAll, what) || node == "w1" && slices.Contains(ofItsOwn, what)
			path, body := p.request(rt, node)
			paths := []string{path}
			if rt.verb == "list" {
				more := "?"
				if strings.Contains(path, "?") {
					more = "&"
				}
				paths = append(paths, path+more+"watch=true")
			}
			for _, path := range paths {
				code, got := p.ask(t, "w1", rt.method, path, body)
				if fine := code < 300 || code == otherwise[what]; may && !fine || !may && code != http.StatusForbidden || !strings.Contains(path, "/versions/") && strings.Contains(got, "hunter2") {
					t.Errorf("%s, as %s %s: %d %s, may: %v", what, rt.method, path, code, got, may)
				}
			}
		}
		if heard := p.agents["w2"].Load(); node == "w2" && heard > 0 {
			t.Errorf("the agent of w2 was asked %d times", heard)
		}
	}
	if after := p.state(t, "w1"); !maps.Equal(before, after) {
		t.Errorf("changed: %v, was %v", after, before)
	}
}

// TestANodeForges: nor does it help a node to say that it is another, to put what
// is another's beside what is its own, or to come by another way.
func TestANodeForges(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	const pods = "/v1/namespaces/default/pods/"
	status := func(name, node string) string {
		return `{"status":{"kind":"Pod","meta":{"name":"` + name + `","namespace":"default"},"status":{"phase":"running","message":"of ` + node + `"}}}`
	}
	batch := func(writes string) string { return `{"writes":[` + writes + `]}` }
	own, others := "/versions/"+p.hash["secret/x-w1"], "/versions/"+p.hash["secret/x-w2"]
	before := p.state(t, "none")
	for _, tc := range []struct {
		method, path, body string
		want               int
	}{
		{"PUT", "/v1/nodes/w1/status", `{"meta":{"name":"w2"},"status":{"address":"10.9.9.9"}}`, 422},
		{"PUT", pods + "x-w1/status", `{"meta":{"name":"x-w2"},"status":{"phase":"failed"}}`, 422},
		{"PUT", pods + "x-w1/../x-w2/status", `{"status":{"phase":"failed"}}`, 403},
		{"PUT", pods + "x-w1%2f..%2fx-w2/status", `{"status":{"phase":"failed"}}`, 404},
		{"PUT", pods + "x-w2/status?node=w1", `{"meta":{"labels":{"node":"w1"}},"spec":{"node":"w1"},"status":{"phase":"failed"}}`, 403},
		{"PATCH", pods + "x-w2/status", `{"status":{"phase":"failed"}}`, 405},
		{"PATCH", "/v1/nodes/w2", `{"status":{}}`, 405},
		{"POST", "/v1/batch", batch(status("x-w1", "w1") + "," + status("x-w2", "w1")), 403},
		{"POST", "/v1/batch", batch(`{"status":{"kind":"Node","meta":{"name":"w2"},"status":{"address":"10.9.9.9"}}}`), 403},
		{"POST", "/v1/batch", batch(`{"bind":{"namespace":"default","pod":"x-w2","node":"w1"}}`), 403},
		{"POST", "/v1/batch", batch(`{"put":{"kind":"Node","meta":{"name":"w1"},"spec":{}}}`), 403},
		{"POST", "/v1/batch", batch(`{"create":{"kind":"Pod","meta":{"name":"mine","namespace":"default"},"spec":{"image":"nginx:1","node":"w1","contents":{"secret/x-w2":"` + p.hash["secret/x-w2"] + `"}}}}`), 403},
		{"POST", "/v1/batch", batch(`{"put":{"kind":"Token","meta":{"name":"t"},"spec":` + samples["Token"] + `}}`), 403},
		{"POST", "/v1/batch", batch(`{"delete":{"ref":{"kind":"Pod","namespace":"default","name":"x-w1"},"final":true}}`), 403},
		{"POST", "/v1/batch", `{"preconditions":[{"ref":{"kind":"Secret","namespace":"default","name":"x-w1"},"generation":1}],` + batch(status("x-w1", "w1"))[1:], 403},
		{"POST", "/v1/batch", `{"preconditions":[{"ref":{"kind":"Pod","namespace":"default","name":"x-w2"},"generation":1}],` + batch(status("x-w1", "w1"))[1:], 403},
		{"POST", "/v1/events", `{"subject":{"kind":"Secret","namespace":"default","name":"x-w1"},"event":{"reason":"r"}}`, 403},
		{"GET", "/v1/pods", "", 403},
		{"GET", "/v1/pods?watch=true", "", 403},
		{"GET", "/v1/pods?node=w2&node=w1", "", 403},
		{"GET", "/v1/pods?label=node=w1", "", 403},
		{"GET", "/v1/pods?Node=w1", "", 400},
		{"GET", "/v1/volumes", "", 403},
		{"GET", "/v1/secrets?node=w1", "", 400},
		{"GET", "/v1/namespaces/default/secrets/x-w1" + others, "", 403},
		{"GET", "/v1/namespaces/default/secrets/x-w2" + own, "", 403},
		{"GET", "/v1/namespaces/default/configs/x-w1" + own, "", 403},
		{"GET", "/v1/namespaces/x-w1/secrets/x-w1" + own, "", 403},
		{"GET", "/v1/namespaces/default/secrets/X-W1" + own, "", 403},
		{"POST", "/v1/keys/gossip", "", 403},
		{"POST", "/v1/keys/authorities?forget=true", "", 403},
		{"POST", "/v1/snapshot", `{"passphrase":"mine"}`, 403},
		{"PUT", "/v1/tokens/t", `{"spec":` + samples["Token"] + `}`, 403},
		{"PUT", "/v1/roles/admin", `{"spec":` + samples["Role"] + `}`, 403},
		{"PUT", "/v1/nodes/w3", `{}`, 403},
		{"DELETE", "/v1/nodes/w2", "", 403},
		{"DELETE", "/v1/nodes/w1", "", 403},
	} {
		if code, got := p.ask(t, "w1", tc.method, tc.path, tc.body); code != tc.want || strings.Contains(got, "hunter2") {
			t.Errorf("%s %s %s: %d %s, want %d", tc.method, tc.path, tc.body, code, got, tc.want)
		}
	}
	if after := p.state(t, "none"); !maps.Equal(before, after) {
		t.Errorf("changed: %v, was %v", after, before)
	}
	// The rest of a list that somebody else began, with a filter that is its own.
	_, got := call(p.Server, system, "GET", "/v1/pods?limit=1", "")
	var page struct{ Continue string }
	if err := json.Unmarshal([]byte(got), &page); err != nil || page.Continue == "" {
		t.Fatal(got, err)
	}
	if code, got := p.ask(t, "w1", "GET", "/v1/pods?node=w1&node=w2&continue="+url.QueryEscape(page.Continue), ""); strings.Contains(got, "x-w2") {
		t.Errorf("the rest of a list: %d %s", code, got)
	}
	// Whatever a request for a certificate says, the certificate says w1.
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "server:s1"}, DNSNames: []string{"s1", "w2"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 9)},
	}, key))(t)
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	code, got := p.ask(t, "w1", "POST", "/v1/renew", string(must(json.Marshal(pki.RenewRequest{CSR: string(csr)}))(t)))
	var renewed pki.JoinResponse
	if err := json.Unmarshal([]byte(got), &renewed); err != nil || code != 200 {
		t.Fatal(code, got, err)
	}
	if c := parsed(t, renewed.Certificate); c.Subject.CommonName != "node:w1" || len(c.DNSNames)+len(c.IPAddresses) > 0 || c.IsCA {
		t.Errorf("renewed for %s, %v %v", c.Subject, c.DNSNames, c.IPAddresses)
	}
	// Nor is what its pods used for it once they have ended.
	if code, got := p.ask(t, "w1", "GET", "/v1/namespaces/default/secrets/x-w1"+own, ""); code != 200 || !strings.Contains(got, "hunter2 of w1") {
		t.Errorf("its own secret: %d %s", code, got)
	}
	if code, got := p.ask(t, "w1", "PUT", pods+"x-w1/status", `{"status":{"phase":"failed"}}`); code != 200 {
		t.Fatal(code, got)
	}
	if code, got := p.ask(t, "w1", "GET", "/v1/namespaces/default/secrets/x-w1"+own, ""); code != 403 || strings.Contains(got, "hunter2") {
		t.Errorf("the secret of a pod that has ended: %d %s", code, got)
	}
}
