package provider_test

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/internal/testcluster"
)

// BenchmarkPlan is a plan that changes nothing, of 1,000 services, with the
// provider as a process of its own: wall time, and requests to the API.
func BenchmarkPlan(b *testing.B) {
	const many = 1000
	c := testcluster.Start(b, testcluster.Config{})
	var requests atomic.Int64
	front := count(b, c, &requests)
	dir := b.TempDir()
	var cpu time.Duration // of Terraform and the provider
	run := func(args ...string) {
		b.Helper()
		cmd := exec.CommandContext(b.Context(), args[0], args[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CLUSTERD_ADDR="+front.URL, "CLUSTERD_TOKEN="+c.Token(), "CLUSTERD_CACERT="+filepath.Join(dir, "front.pem"), "TF_CLI_CONFIG_FILE="+filepath.Join(dir, "dev.tfrc"))
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %v\n%s", args, err, out)
		}
		cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	for name, content := range map[string]string{
		"front.pem": string(pemOf(front)),
		"dev.tfrc":  fmt.Sprintf("provider_installation {\n  dev_overrides { \"clusterd/clusterd\" = %q }\n}\n", dir),
		"main.tf": fmt.Sprintf(`terraform {
  required_providers {
    clusterd = { source = "clusterd/clusterd" }
  }
}
resource "clusterd_service" "many" {
  count = %d
  name  = "svc-${count.index}"
  app   = "web"
  ports = { http = { port = 80, target = 8080 }, metrics = { port = 9090 } }
}
`, many),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	here, err := os.Getwd()
	if err != nil {
		b.Fatal(err)
	}
	run("go", "build", "-C", here, "-o", dir, "./terraform-provider-clusterd")
	run("terraform", "apply", "-auto-approve", "-parallelism=20")
	cpu = 0
	for b.Loop() {
		requests.Store(0)
		run("terraform", "plan", "-detailed-exitcode")
	}
	b.ReportMetric(float64(requests.Load()), "requests/op")
	b.ReportMetric(cpu.Seconds()/float64(b.N), "cpu-s/op")
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
		proxy.ServeHTTP(w, r)
	}))
	b.Cleanup(front.Close)
	return front
}

func pemOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}
