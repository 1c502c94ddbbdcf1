//go:build !race

package provider_test

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/internal/testcluster"
)

// BenchmarkPlan is a plan that changes nothing, of 1,000 apps or services, with
// the provider as a process of its own: wall time, and requests to the API. The
// floor is what Terraform takes for 1,000 resources of its own in which the same is
// written as an app says, with no process behind them.
func BenchmarkPlan(b *testing.B) {
	const app = `
    name     = "app-${count.index}"
    image    = "nginx:1.0"
    replicas = 0
    cpu      = "100m"
    memory   = "64Mi"
    env      = { LEVEL = "info", PEER = "app-${count.index + 1}" }
    ports    = { http = 80 }
    health   = { http = "/" }
    update   = { healthy_for = "0s" }
`
	for name, hcl := range map[string]string{
		"floor": "resource \"terraform_data\" \"many\" {\n  count = %d\n  input = {" + app + "  }\n}\n",
		"apps":  "resource \"clusterd_app\" \"many\" {\n  count = %d" + app + "}\n",
		"services": `
resource "clusterd_service" "many" {
  count = %d
  name  = "svc-${count.index}"
  app   = "web"
  ports = { http = { port = 80, target = 8080 }, metrics = { port = 9090 } }
}
`,
	} {
		b.Run(name, func(b *testing.B) { benchmarkPlan(b, fmt.Sprintf(hcl, 1000)) })
	}
}

func benchmarkPlan(b *testing.B, hcl string) {
	c := testcluster.Start(b, testcluster.Config{})
	var requests atomic.Int64
	front := count(b, c, &requests)
	w := newWorkspace(b, program(b), map[string]string{"CLUSTERD_ADDR": front.URL, "CLUSTERD_TOKEN": c.Token(), "CLUSTERD_CACERT": string(pemOf(front))})
	delete(w.env, plainPlugin)
	w.write("main.tf", hcl)
	w.must(0, "apply", "-auto-approve", "-parallelism=20")
	w.cpu = 0
	for b.Loop() {
		requests.Store(0)
		w.must(0, "plan", "-detailed-exitcode")
	}
	b.ReportMetric(float64(requests.Load()), "requests/op")
	b.ReportMetric(w.cpu.Seconds()/float64(b.N), "cpu-s/op")
}

// count puts a proxy before the cluster that counts what passes.
func count(b *testing.B, c *testcluster.Cluster, requests *atomic.Int64) *httptest.Server {
	b.Helper()
	target, err := url.Parse(c.URL())
	if err != nil {
		b.Fatal(err)
	}
	roots, err := pki.LoadRoots(c.CAFile())
	if err != nil {
		b.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = &http.Transport{TLSClientConfig: roots, MaxIdleConnsPerHost: 32}
	proxy.FlushInterval = -1
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		// All of the body at once: a proxy that still looks for more of it when
		// the answer comes gives the connection up.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}))
	b.Cleanup(front.Close)
	return front
}

func pemOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}
