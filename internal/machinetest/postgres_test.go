package machinetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// TestState walks what must not be lost through what goes wrong: the
// configuration of an app, changed well and badly, and PostgreSQL of
// examples/modules/postgres, whose data and whose being alone are looked at after
// each step.
func TestState(t *testing.T) {
	t.Parallel()
	c := up(t, "pg")
	for _, image := range []string{"postgres-15.tar", "nginx-1.0.tar"} {
		path := filepath.Join(c.root, ".cache/images", image)
		if _, err := os.Stat(path); err != nil {
			t.Skipf("needs %s: run make images-test", path)
		}
		c.must(t, "image", "load", path)
	}
	t.Run("late image", func(t *testing.T) { testLateImage(t, c) })
	t.Run("config", func(t *testing.T) { testConfig(t, c) })
	t.Run("secret", func(t *testing.T) { testSecret(t, c) })
	db := c.terraform(t, database(c))
	t.Run("postgres", func(t *testing.T) { testPostgres(t, c, db) })
	t.Run("partition", func(t *testing.T) { testPartition(t, c) })
	t.Run("destroy", func(t *testing.T) { testDestroy(t, c, db) })
}

// The run lease of a server that is given no other, and what its leader waits
// beyond it.
const lease, leaseMargin = 20 * time.Second, 5 * time.Second

func database(c *cluster) string {
	return fmt.Sprintf(`
module "db" {
  source              = %q
  name                = "db"
  cpu                 = "100m"
  memory              = "256Mi"
  storage             = "256Mi"
  deletion_protection = false
}
`, filepath.Join(c.root, "examples/modules/postgres"))
}

// sql asks the database by its socket in the container.
func (c *cluster) sql(query string) string {
	return strings.TrimSpace(c.try("exec", "app/db", "--", "psql", "-h", "/tmp", "-U", "app", "-d", "app", "-v", "ON_ERROR_STOP=1", "-qAtc", query))
}

// postgres finds the database's first process, wherever in the cluster it runs:
// one pid for each database.
func (c *cluster) postgres(t testing.TB, node string) (pids []int) {
	t.Helper()
	found := processes(t, "postgres -D /var/lib/postgresql/data")
	for _, pid := range found {
		group, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if strings.Contains(string(group), "/"+c.name+"/"+node) && !slices.Contains(found, parent(pid)) { // no session of it that has just begun
			pids = append(pids, pid)
		}
	}
	return pids
}

// parent is the process that is told of the end of this one; 0 is none.
func parent(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(b), "\nPPid:\t")
	line, _, _ := strings.Cut(rest, "\n")
	ppid, _ := strconv.Atoi(line)
	return ppid
}

// alone watches that the database never runs twice, and knows how often it looked.
func (c *cluster) alone(t *testing.T) (end func()) {
	stop, looks := make(chan struct{}), 0
	var done sync.WaitGroup
	done.Go(func() {
		for ; ; looks++ {
			if pids := c.postgres(t, ""); len(pids) > 1 && len(c.postgres(t, "")) > 1 {
				t.Errorf("the database runs %d times: processes %v", len(pids), pids)
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return func() {
		close(stop)
		done.Wait()
		if t.Logf("looked %d times whether the database runs twice", looks); looks < 10 {
			t.Errorf("looked only %d times whether the database runs twice", looks)
		}
	}
}

// serves waits until the database answers with the rows, by one process.
func (c *cluster) serves(t *testing.T, after, rows string, within time.Duration) {
	t.Helper()
	var got string
	defer func() {
		if t.Failed() {
			t.Logf("%s: the database said %q\n%s\n%s", after, got, c.try("describe", "app", "db"), c.try("why", "app/db"))
		}
	}()
	took := eventually(t, within, after+": the database has "+rows, func() bool {
		got = c.sql("SELECT string_agg(word, ' ' ORDER BY n) FROM kept")
		return got == rows && len(c.postgres(t, "")) == 1
	})
	t.Logf("%s: the data is there after %s", after, took.Round(100*time.Millisecond))
}

func testPostgres(t *testing.T, c *cluster, m *module) {
	m.apply(t)
	m.empty(t)
	if out := c.sql("CREATE TABLE kept (n serial, word text); INSERT INTO kept (word) VALUES ('one')"); out != "" {
		t.Fatalf("the row was not written: %s", out)
	}
	c.serves(t, "at first", "one", 10*time.Second)
	defer c.alone(t)()

	kill := func(pids []int) {
		t.Helper()
		if len(pids) == 0 {
			t.Fatal("found no process to kill")
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) { // it may die of another's end
				t.Fatalf("kill %d: %v", pid, err)
			}
		}
	}
	pod := c.pods(t, "db")[0]
	was := c.postgres(t, "")
	kill(was)
	eventually(t, 20*time.Second, "another process runs", func() bool {
		now := c.postgres(t, "")
		return len(now) == 1 && now[0] != was[0]
	})
	c.serves(t, "process killed", "one", 30*time.Second)
	c.sql("INSERT INTO kept (word) VALUES ('two')")

	// The database does not need them: it is the same process afterwards.
	was = c.postgres(t, "")
	place := "/" + c.name + "/" + pod.Spec.Node
	supervisor := processes(t, "nodeagent run ", place)
	under := func(command string) []int {
		return slices.DeleteFunc(processes(t, "nodeagent "+command), func(pid int) bool { return !slices.Contains(supervisor, parent(pid)) })
	}
	agent, containerd := under("agent"), under("containerd ")
	if len(supervisor) != 1 || len(agent) != 1 || len(containerd) != 1 {
		t.Fatalf("found supervisors %v, agents %v, containerds %v of %s, want one each", supervisor, agent, containerd, pod.Spec.Node)
	}
	kill(slices.Concat(supervisor, agent, containerd))
	c.must(t, "dev", "up", "--name", c.name, "--nodes", "3")
	c.serves(t, "agent and containerd killed", "one two", 40*time.Second)
	if now := c.postgres(t, ""); !slices.Equal(now, was) {
		t.Errorf("without its agent the database began again: process %v, was %v", now, was)
	}

	c.sql("INSERT INTO kept (word) VALUES ('three')")
	pod = c.pods(t, "db")[0]
	c.must(t, "delete", "pod/"+pod.Meta.Name)
	eventually(t, 60*time.Second, "another pod is ready", func() bool {
		now := c.pods(t, "db")
		return len(now) == 1 && now[0].Meta.UID != pod.Meta.UID && now[0].Status.Ready
	})
	c.serves(t, "pod deleted", "one two three", 30*time.Second)
	m.empty(t)
}

// testPartition cuts the database's node off. The node stops it, nobody else
// starts it, and the cluster says what it waits for.
func testPartition(t *testing.T, c *cluster) {
	pods := c.pods(t, "db")
	if len(pods) != 1 || len(c.postgres(t, "")) != 1 {
		t.Fatalf("the database does not run:\n%s", c.try("get", "pods", "-o", "wide"))
	}
	defer c.alone(t)()
	node := pods[0].Spec.Node
	c.must(t, "dev", "link", number(node), "down", "--name", c.name)
	cut := time.Now()
	stopped := eventually(t, lease+leaseMargin, "the node has stopped the database that nobody can reach", func() bool {
		return len(c.postgres(t, node)) == 0
	})
	t.Logf("the cut off node stopped the database after %s", stopped.Round(100*time.Millisecond))
	if stopped < 5*time.Second {
		t.Errorf("the node stopped the database after %s: long before its lease was over", stopped)
	}
	var why string
	reason := "volume db-data-0 is on node " + node
	eventually(t, 60*time.Second, "why says what the database waits for", func() bool {
		why = c.try("why", "app/db")
		return strings.Contains(why, reason)
	})
	t.Logf("%s after the cut why says\n%s", time.Since(cut).Round(100*time.Millisecond), why)
	if !strings.Contains(why, "bring the node back") {
		t.Error("why does not say the way out")
	}
	if pids := c.postgres(t, ""); len(pids) > 0 {
		t.Errorf("the database runs without its volume: processes %v", pids)
	}

	c.must(t, "dev", "link", number(node), "up", "--name", c.name)
	c.serves(t, "partition healed", "one two three", 60*time.Second)
	if now := c.pods(t, "db"); len(now) != 1 || now[0].Spec.Node != node {
		t.Errorf("the database is not where its volume is, on %s:\n%s", node, c.try("get", "pods", "-o", "wide"))
	}
}

// testDestroy: the volume outlives the module, and the next of its name finds the
// data. It goes when somebody says that it may.
func testDestroy(t *testing.T, c *cluster, m *module) {
	volumes := func() (names []string) {
		for _, v := range get(t, c, api.Volumes) {
			names = append(names, v.Meta.Name)
		}
		return names
	}
	m.empty(t)
	m.must(t, "destroy", "-auto-approve", "-input=false", "-no-color")
	if pods, pids := c.pods(t, "db"), c.postgres(t, ""); len(pids) > 0 || len(pods) > 0 {
		t.Errorf("after destroy there are pods %v, processes %v", pods, pids)
	}
	if left := volumes(); !slices.Equal(left, []string{"db-data-0"}) {
		t.Fatalf("after destroy there are volumes %q", left)
	}
	if said := c.try("delete", "volume/db-data-0"); !strings.Contains(said, "is protected from deletion: set deletion_protection = false first") {
		t.Errorf("delete of a protected volume says %q", said)
	}
	m.apply(t)
	m.empty(t)
	c.serves(t, "made anew", "one two three", 30*time.Second)
	login := "PGPASSWORD=$POSTGRES_PASSWORD psql -h $HOSTNAME -U app -tAc 'select current_user' app"
	if got := strings.TrimSpace(c.must(t, "exec", "app/db", "--", "bash", "-c", login)); got != "app" {
		t.Errorf("the data of before takes the new password: %q", got)
	}
	m.must(t, "destroy", "-auto-approve", "-input=false", "-no-color")
	if err := c.put("/v1/namespaces/default/volumes/db-data-0", `{"spec":{"size":"256Mi","deletion_protection":false}}`); err != nil {
		t.Fatal(err)
	}
	c.must(t, "delete", "volume/db-data-0")
	if left := volumes(); len(left) > 0 {
		t.Errorf("after its deletion there are volumes %q", left)
	}
}

// site is nginx whose whole configuration is a config.
func site(location string) string {
	return fmt.Sprintf(`
resource "clusterd_config" "site" {
  name = "site"
  data = {
    "nginx.conf" = <<-EOT
      pid /tmp/nginx.pid;
      error_log stderr notice;
      events {}
      http {
        server {
          listen 80;
          location / { %s }
        }
      }
    EOT
  }
}

resource "clusterd_app" "site" {
  name     = "site"
  image    = "nginx:1.0"
  replicas = 2
  cpu      = "10m"
  memory   = "32Mi"
  ports    = { http = 80 }
  health   = { http = "/", interval = "500ms" }
  update   = { healthy_for = "1s" }
  files    = { "/etc/nginx/nginx.conf" = { config = "${clusterd_config.site.name}/nginx.conf" } }
}

resource "clusterd_service" "site" {
  name  = "site"
  app   = clusterd_app.site.name
  ports = { http = { port = 80, node_port = 30085 } }
}
`, location)
}

// testConfig: a change of a config is a rollout of the app that reads it; when
// that fails, both are again what they were.
func testConfig(t *testing.T, c *cluster) {
	m := c.terraform(t, site(`return 200 "page one\n";`))
	m.apply(t)
	m.empty(t)
	pages := func(want string) {
		t.Helper()
		for _, n := range c.nodes(t) {
			if page := fetch(t, "http://"+n.Status.Address+":30085/"); page != want {
				t.Errorf("%s answers %q, want %q", n.Meta.Name, page, want)
			}
		}
	}
	pages("page one\n")

	var urls []string
	for _, n := range c.nodes(t) {
		urls = append(urls, "http://"+n.Status.Address+":30085/")
	}
	l := startLoad(urls...)
	good := site(`return 200 "page two\n";`)
	m.write(t, good)
	m.apply(t)
	pages("page two\n")
	m.empty(t)

	m.write(t, site(`nonsense "page three\n";`))
	before := m.changes(t)
	out, code := m.run(t, "apply", "-auto-approve", "-input=false", "-no-color")
	flat := strings.Join(strings.Fields(strings.ReplaceAll(out, "│", "")), " ")
	if code == 0 {
		t.Errorf("apply of a configuration that nginx refuses ended well:\n%s", out)
	}
	for _, want := range []string{"site-", `unknown directive "nonsense"`, "rolled back"} {
		if !strings.Contains(flat, want) {
			t.Errorf("apply does not say %q:\n%s", want, out)
		}
	}
	pages("page two\n")
	configs := get(t, c, api.Configs)
	i := slices.IndexFunc(configs, func(o *api.Config) bool { return o.Meta.Name == "site" })
	if i < 0 || !strings.Contains(configs[i].Spec.Data["nginx.conf"], "page two") {
		t.Errorf("the config is not what it was before:\n%s", c.try("get", "configs", "-o", "json"))
	}
	if after := m.changes(t); !slices.Equal(after, before) {
		t.Errorf("the next plan shows %q, want the same as before: %q", after, before)
	}
	time.Sleep(time.Second) // stragglers of old connections
	l.mustBeClean(t, "config changed, well and badly")
	m.write(t, good)
	m.empty(t)
	m.must(t, "destroy", "-auto-approve", "-no-color")
}
