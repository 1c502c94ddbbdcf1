package machinetest

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// TestServersOff: with all servers off, for CLUSTERD_OFF, pods reach each other
// by name without one request lost, a process that is killed runs again, and an
// agent that is killed changes nothing. When the servers are back, nothing
// restarts.
func TestServersOff(t *testing.T) {
	soak(t)
	off, err := time.ParseDuration(os.Getenv("CLUSTERD_OFF"))
	if err != nil {
		off = 5 * time.Minute
	}
	c := upWith(t, "off", 3, 3)
	c.fleet(t, 30096)
	c.terraform(t, prober).apply(t)
	c.whole(t, 3)
	before, asking := c.pids(t, "steady"), c.pids(t, "prober")
	victim := c.pods(t, "steady")[0]
	began := time.Now()
	for _, server := range []string{"1", "2", "3"} {
		c.must(t, "dev", "server", "stop", server, "--name", c.name)
	}
	for _, node := range []string{"w1", "w2", "w3"} {
		c.killAgent(t, node)
	}
	time.Sleep(off - time.Since(began))
	for name, was := range before { // the containers themselves, as nobody can be asked
		if err := syscall.Kill(was[0], 0); err != nil {
			t.Errorf("%s has ended: %v", name, err)
		}
	}
	// Its page is gone for as long as it takes to start, so it comes last.
	main := victim.Status.Containers[api.MainContainer]
	lost := time.Now()
	if err := syscall.Kill(main.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the killed process runs again", func() bool {
		return slices.ContainsFunc(processes(t, "nginx: master"), func(pid int) bool {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			return pid != main.PID && strings.Contains(string(b), victim.Meta.UID)
		})
	})
	t.Logf("a process ran again %s after it was killed, with no server up", time.Since(lost).Round(time.Millisecond))
	c.must(t, "dev", "up", "--name", c.name, "--nodes", "3", "--servers", "3")
	c.whole(t, 3)
	time.Sleep(3 * time.Second) // would-be restarts
	asked := 0
	for line := range strings.Lines(c.must(t, "logs", "app/prober", "--since", fmt.Sprint(time.Since(began).Round(time.Second)))) {
		_, said, _ := strings.Cut(line, "asked ")
		stamp, answer, _ := strings.Cut(strings.TrimSpace(said), " ")
		at, err := strconv.ParseFloat(stamp, 64)
		if when := time.UnixMicro(int64(at * 1e6)); err != nil || when.Before(began) || when.After(lost.Add(-3*time.Second)) {
			continue
		}
		asked++
		if !strings.Contains(answer, "200 OK") {
			t.Errorf("the prober saw, %.3f s after the servers were stopped: %s", at-float64(began.UnixMicro())/1e6, line)
		}
	}
	if asked < int(off.Seconds()) {
		t.Errorf("the prober asked %d times in %s", asked, off)
	}
	t.Logf("%d requests by name in %s with no server up", asked, off)
	for name, now := range c.pids(t, "steady") {
		if name != victim.Meta.Name && now != before[name] {
			t.Errorf("%s has process and restarts %v, had %v", name, now, before[name])
		}
		if name == victim.Meta.Name && now[1] != before[name][1]+1 {
			t.Errorf("%s was restarted %d times, want one more than %d", name, now[1], before[name][1])
		}
	}
	if now := c.pids(t, "prober"); fmt.Sprint(now) != fmt.Sprint(asking) {
		t.Errorf("the prober has process and restarts %v, had %v", now, asking)
	}
}

// prober asks the fleet by name, through DNS and the virtual IP, and says when
// and what it heard.
const prober = `
resource "clusterd_app" "prober" {
  name    = "prober"
  image   = "nginx:1.0"
  memory  = "32Mi"
  command = ["bash", "-c", <<-EOT
    while :; do
      line=none since=$EPOCHREALTIME
      if exec 3<>/dev/tcp/steady.default.svc.cluster.local/80; then
        printf 'GET / HTTP/1.0\r\nHost: steady\r\n\r\n' >&3
        read -r -t 2 line <&3
        exec 3>&-
      fi
      echo "asked $since $line"
      sleep 0.2
    done
  EOT
  ]
}
`
