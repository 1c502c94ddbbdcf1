package command

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/internal/testcluster"
)

// result is how a run of the program ended.
type result struct {
	code     int
	out, err string
}

func clusterd(stdin string, args ...string) result {
	var out, errOut bytes.Buffer
	code := Main(args, strings.NewReader(stdin), &out, &errOut)
	return result{code, out.String(), errOut.String()}
}

// ok runs a command that must succeed, and returns what it printed.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	r := clusterd("", args...)
	if r.code != 0 {
		t.Fatalf("clusterd %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// refused runs a command that must fail with words of the way out.
func refused(t *testing.T, want string, args ...string) {
	t.Helper()
	r := clusterd("", args...)
	if r.code != 1 || !strings.Contains(r.err, want) {
		t.Errorf("clusterd %s: exit code %d, want 1 and %q, got\n%s", strings.Join(args, " "), r.code, want, r.err)
	}
	if r.out != "" {
		t.Errorf("clusterd %s failed and printed to stdout: %q", strings.Join(args, " "), r.out)
	}
}

func TestErrorsSayTheWayOut(t *testing.T) {
	for _, name := range []string{"CLUSTERD_ADDR", "CLUSTERD_TOKEN", "CLUSTERD_CACERT", "CLUSTERD_NAMESPACE"} {
		t.Setenv(name, "")
	}
	refused(t, "clusterd dev env", "get", "pods")
	refused(t, `unknown kind "ports": want one of`, "get", "ports")
	refused(t, "want table, wide or json", "get", "pods", "-o", "yaml")
	refused(t, "want app/<name>, job/<name> or pod/<name>", "logs", "node/w1", "--addr", "https://127.0.0.1:1")
	t.Setenv("CLUSTERD_ADDR", "https://127.0.0.1:1")
	refused(t, "no CLUSTERD_TOKEN", "get", "pods")
	t.Setenv("CLUSTERD_TOKEN", pki.NewJoinToken(strings.Repeat("a", 64)).Reveal())
	refused(t, "this is a join token", "get", "pods")
	t.Setenv("CLUSTERD_TOKEN", pki.NewUserToken().Reveal())
	refused(t, "CLUSTERD_CACERT: read the CA certificate", "get", "pods", "--cacert", "/nonexistent")
	refused(t, "there is no certificate", "get", "pods", "--cacert", "-----BEGIN NOTHING-----")
	refused(t, "want pod/<name>", "describe", "pod/")
	refused(t, "which one?", "describe", "pod")
	refused(t, "what to run?", "exec", "pod/web")
	refused(t, `"web" could be a pod or an app: want pod/web or app/web`, "exec", "web", "--", "sh")
	refused(t, "--role", "token", "create")
	refused(t, "want clusterd get <kind> [name]", "get")
	refused(t, `unknown command "drian" for "clusterd node": want one of confirm-off, cordon, drain`, "node", "drian", "w1")
	refused(t, `"zone": want key=value, or key- to take it away`, "node", "label", "w1", "zone")
	if out := ok(t, "node"); !strings.Contains(out, "uncordon") {
		t.Errorf("clusterd node: %s", out)
	}
	if r := clusterd("", "version"); r.code != 0 || !strings.HasPrefix(r.out, "clusterd ") || !strings.HasPrefix(r.err, "The servers' versions are not known: ") {
		t.Errorf("version without a cluster to ask: %+v", r)
	}
}

// TestCluster asks a real control plane, whose nodes run nothing.
func TestCluster(t *testing.T) {
	c := testcluster.Start(t, testcluster.Config{Nodes: 2, Etcd: true})
	for k, v := range c.Env() {
		t.Setenv(k, v)
	}
	t.Setenv("CLUSTERD_NAMESPACE", "")
	replicas := 2
	app := &api.App{Meta: api.Meta{Name: "web", Namespace: api.DefaultNamespace}, Spec: api.AppSpec{Container: api.Container{Image: "nginx:1.27"}, Replicas: &replicas}}
	if _, err := client.Of(c.Client(), api.Apps).Create(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	c.Await("two pods serve", func(ctx context.Context) (bool, error) {
		a, err := client.Of(c.Client(), api.Apps).Get(ctx, api.DefaultNamespace, "web")
		return err == nil && a.Status.Ready == 2 && a.Status.Rollout.Phase == api.RolloutComplete, err
	})
	t.Run("get", testGet)
	t.Run("watch", testWatch)
	t.Run("describe", testDescribe)
	t.Run("describe every kind", func(t *testing.T) { testDescribeEveryKind(t, c) })
	t.Run("complete", testComplete)
	t.Run("logs", testLogs)
	t.Run("exec", testExec)
	t.Run("image", testImages)
	t.Run("port-forward", func(t *testing.T) { testPortForward(t, c) })
	t.Run("events", testEvents)
	t.Run("cordon", testCordon)
	t.Run("drain", testDrain)
	t.Run("marks", testMarks)
	t.Run("plan", testPlan)
	t.Run("why", testWhy)
	t.Run("rebalance", func(t *testing.T) { testRebalance(t, c) })
	t.Run("token", func(t *testing.T) { testToken(t, c) })
	t.Run("role", testRole)
	t.Run("end of a right", func(t *testing.T) { testEndOfARight(t, c) })
	t.Run("follow", func(t *testing.T) { testFollow(t, c) })
	t.Run("rollout", func(t *testing.T) { testRollout(t, c) })
	t.Run("top", func(t *testing.T) { testTop(t, c) })
	t.Run("delete", testDelete)
	t.Run("confirm-off", func(t *testing.T) { testConfirmOff(t, c) })
}

// podNames lists the pods as scripts do, with -o json.
func podNames(t *testing.T) (names []string) {
	t.Helper()
	var list struct{ Items []*api.Pod }
	if err := json.Unmarshal([]byte(ok(t, "get", "pods", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		if p.Spec.Node == "" || p.Status.Phase != api.PhaseRunning || !p.Status.Ready {
			t.Errorf("pod %s: node %q, phase %q, ready %v", p.Meta.Name, p.Spec.Node, p.Status.Phase, p.Status.Ready)
		}
		names = append(names, p.Meta.Name)
	}
	return names
}

func testGet(t *testing.T) {
	if names := podNames(t); len(names) != 2 {
		t.Errorf("pods: %v", names)
	}
	for _, want := range []string{"NAME", "HEALTH", "w1", "w2", "ready"} {
		if out := ok(t, "get", "nodes"); !strings.Contains(out, want) {
			t.Errorf("get nodes lacks %q:\n%s", want, out)
		}
	}
	if out := ok(t, "get", "app", "web"); !strings.Contains(out, "2/2") || strings.Contains(out, "NAMESPACE") {
		t.Errorf("get app web:\n%s", out)
	}
	if out := ok(t, "get", "app/web", "-o", "json"); !strings.Contains(out, `"items": [`) || !strings.Contains(out, `"image": "nginx:1.27"`) {
		t.Errorf("one object as JSON:\n%s", out)
	}
	if out := ok(t, "get", "apps", "-A"); !strings.Contains(out, "NAMESPACE") {
		t.Errorf("get apps -A:\n%s", out)
	}
	if out := ok(t, "get", "services", "-o", "json"); strings.Join(strings.Fields(out), "") != `{"items":[]}` {
		t.Errorf("none, as JSON: %s", out)
	}
	if r := clusterd("", "get", "services"); r.code != 0 || r.out != "" || !strings.Contains(r.err, "No services in namespace default") {
		t.Errorf("none, as a table: %+v", r)
	}
	refused(t, "app/default/nope", "get", "app", "nope")
}

func testWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pr, pw := io.Pipe()
	c := &cli{in: strings.NewReader(""), out: pw, err: io.Discard}
	root := c.root()
	root.SetArgs([]string{"get", "namespaces", "-w", "-o", "json"})
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx); pw.Close() }()
	lines := json.NewDecoder(pr)
	next := func() (ev struct {
		Type   api.EventType
		Object struct{ Meta api.Meta }
	}) {
		if err := lines.Decode(&ev); err != nil {
			t.Fatal(err)
		}
		return ev
	}
	if ev := next(); ev.Type != api.EventPut || ev.Object.Meta.Name != "default" {
		t.Errorf("first comes what is: %+v", ev)
	}
	to := &target{}
	cl, err := to.client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := client.Of(cl, api.Namespaces).Create(t.Context(), &api.Namespace{Meta: api.Meta{Name: "shop"}}); err != nil {
		t.Fatal(err)
	}
	if ev := next(); ev.Type != api.EventPut || ev.Object.Meta.Name != "shop" {
		t.Errorf("then what changes: %+v", ev)
	}
	go io.Copy(io.Discard, pr)
	ok(t, "delete", "namespace", "shop")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("watch ended with %v", err)
	}
}

func testDescribe(t *testing.T) {
	out := ok(t, "describe", "app", "web")
	for _, want := range []string{"app/default/web", `image    = "nginx:1.27"`, "2 of 2", "complete", "REFERENCE", "nginx:1.27   sha256:", "Pods", "web-", "Events", "rollout_complete"} {
		if !strings.Contains(out, want) {
			t.Errorf("describe app lacks %q:\n%s", want, out)
		}
	}
	pod := podNames(t)[0]
	out = ok(t, "describe", "pod/"+pod)
	for _, want := range []string{"Container main", "phase        running", "node         w"} {
		if !strings.Contains(out, want) {
			t.Errorf("describe pod lacks %q:\n%s", want, out)
		}
	}
	if out := ok(t, "describe", "node", "w1"); !strings.Contains(out, "health       ready") || !strings.Contains(out, "default/web-") || !strings.Contains(out, "by node:w1 (nodeagent/") {
		t.Errorf("describe node:\n%s", out)
	}
}

// testDescribeEveryKind: each kind tells its story, whoever wrote code for it.
func testDescribeEveryKind(t *testing.T, c *testcluster.Cluster) {
	ctx, cl := t.Context(), c.Client()
	web := &api.Service{Meta: api.Meta{Name: "web", Namespace: api.DefaultNamespace}, Spec: api.ServiceSpec{App: "web", Ports: map[string]api.ServicePort{"http": {Port: 80}}}}
	if _, err := client.Of(cl, api.Services).Create(ctx, web); err != nil {
		t.Fatal(err)
	}
	volume := &api.Volume{Meta: api.Meta{Name: "data", Namespace: api.DefaultNamespace}, Spec: api.VolumeSpec{Size: "16Mi"}}
	if _, err := client.Of(cl, api.Volumes).Create(ctx, volume); err != nil {
		t.Fatal(err)
	}
	config := &api.Config{Meta: api.Meta{Name: "web", Namespace: api.DefaultNamespace}, Spec: api.ConfigSpec{Data: map[string]string{"level": "debug"}}}
	if _, err := client.Of(cl, api.Configs).Create(ctx, config); err != nil {
		t.Fatal(err)
	}
	secret := &api.Secret{Meta: api.Meta{Name: "db", Namespace: api.DefaultNamespace}, Spec: api.SecretSpec{Data: map[string]string{"url": "hunter2-swordfish"}}}
	if _, err := client.Of(cl, api.Secrets).Create(ctx, secret); err != nil {
		t.Fatal(err)
	}
	if out := ok(t, "keys", "rotate", "secrets"); !strings.Contains(out, "versions of secrets sealed anew: 1\n") || !strings.Contains(out, "(the last seals)") {
		t.Errorf("keys rotate secrets says:\n%s", out)
	}
	image := &api.Image{Meta: api.Meta{Name: api.ImageName("docker.io/library/web:1")}, Spec: api.ImageSpec{Reference: "docker.io/library/web:1", Nodes: []string{"w1"}}}
	if _, err := client.Of(cl, api.Images).Create(ctx, image); err != nil {
		t.Fatal(err)
	}
	ok(t, "role", "set", "auditor", "--rule", "read * in *")
	job := &api.Job{Meta: api.Meta{Name: "report", Namespace: api.DefaultNamespace}, Spec: api.JobSpec{Schedule: "0 0 1 1 *", Suspend: new(true)}}
	job.Spec.Image = "report:1"
	if _, err := client.Of(cl, api.Jobs).Create(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	c.Await("the job has its next tick", func(ctx context.Context) (bool, error) {
		j, err := client.Of(cl, api.Jobs).Get(ctx, api.DefaultNamespace, "report")
		return err == nil && !j.Status.Next.IsZero(), err
	})
	c.Await("the service has endpoints", func(ctx context.Context) (bool, error) {
		s, err := client.Of(cl, api.EndpointSlices).Get(ctx, api.DefaultNamespace, "web-0")
		return err == nil && len(s.Spec.Addresses) == 2, nil
	})
	for _, args := range [][]string{{"describe", "image", "web:1"}, {"get", "image/docker.io/library/web:1"}} {
		if out := ok(t, args...); !strings.Contains(out, "library/web:1") {
			t.Errorf("%v says:\n%s", args, out)
		}
	}
	says := map[string][]string{
		"App":       {"Rollout"},
		"Job":       {"suspended: no run starts by itself", "next"},
		"Pod":       {"Container main"},
		"Service":   {"web.default.svc.cluster.local", "STATE"},
		"Endpoints": {"addresses = [", "    pod   = \"web-"},
		"Volume":    {"16Mi", "phase", "pending"},
		"Node":      {"allocatable"},
		"Namespace": {"Spec"},
		"Server":    {"leader", "version"},
		"Image":     {"docker.io/library/web:1", `["w1"]`},
		"Token":     {"role", "hash"},
		"Role":      {"verbs", "read"},
		"Event":     {"MESSAGE"},
		"Config":    {"level", "debug"},
		"Secret":    {"hash"},
		"Content":   {"config/web"},
	}
	for _, k := range api.Kinds {
		i := k.Info()
		var list struct{ Items []struct{ Meta api.Meta } }
		if err := json.Unmarshal([]byte(ok(t, "get", i.Plural, "-o", "json")), &list); err != nil || len(list.Items) == 0 {
			t.Errorf("no %s to describe (%v)", i.Plural, err)
			continue
		}
		name := list.Items[0].Meta.Name
		out := ok(t, "describe", strings.ToLower(i.Name), name)
		if len(says[i.Name]) == 0 {
			t.Errorf("no words expected of a %s:\n%s", i.Name, out)
		}
		for _, want := range append(says[i.Name], name) {
			if !strings.Contains(out, want) {
				t.Errorf("describe %s lacks %q:\n%s", i.Name, want, out)
			}
		}
		ok(t, "get", i.Plural, "-o", "wide")
	}
}

func testComplete(t *testing.T) {
	pod := podNames(t)[0]
	for _, try := range []struct {
		words []string
		want  string
	}{
		{[]string{"get", "nam"}, "namespaces"},
		{[]string{"get", "node", "w"}, "w1\nw2\n"},
		{[]string{"describe", "app/"}, "app/web\n"},
		{[]string{"delete", "pods", pod}, pod + "\n"},
		{[]string{"logs", "a"}, "app/\n"},
		{[]string{"logs", "-f", "app/w"}, "app/web\n"},
		{[]string{"exec", "pod/"}, "pod/" + pod + "\n"},
	} {
		if out := ok(t, append([]string{"__complete"}, try.words...)...); !strings.HasPrefix(out, try.want) {
			t.Errorf("%v completes to\n%swant %s", try.words, out, try.want)
		}
	}
	for _, none := range [][]string{{"logs", "node/"}, {"get", "node", "w1", ""}, {"get", "bogus", ""}} {
		if out := ok(t, append([]string{"__complete"}, none...)...); !strings.HasPrefix(out, ":") {
			t.Errorf("%v completes to\n%s", none, out)
		}
	}
}

func testLogs(t *testing.T) {
	names := podNames(t)
	out := ok(t, "logs", "app/web")
	for _, name := range names {
		if !strings.Contains(out, "["+name+"] listening\n") {
			t.Errorf("logs of the app lack %s:\n%s", name, out)
		}
	}
	if out := ok(t, "logs", "pod/"+names[0], "--tail", "1"); out != "listening\n" {
		t.Errorf("logs of a pod: %q", out)
	}
	if out := ok(t, "logs", "pod/"+names[0], "--tail", "0"); out != "" {
		t.Errorf("no lines asked for: %q", out)
	}
	refused(t, "it has main", "logs", "pod/"+names[0], "-c", "nope")
	if r := clusterd("", "logs", "app/web", "-c", "nope"); r.code != 1 || strings.Count(r.err, "it has main") != 1 {
		t.Errorf("logs of an app without the container: %+v", r)
	}
	refused(t, "app/default/nope", "logs", "app/nope")
}

func testExec(t *testing.T) {
	pod := "pod/" + podNames(t)[0]
	if out := ok(t, "exec", pod, "--", "echo", "hello"); out != "hello\n" {
		t.Errorf("exec printed %q", out)
	}
	if out := ok(t, "exec", "app/web", "--", "echo", "-n"); out != "-n\n" {
		t.Errorf("exec in an app printed %q", out)
	}
	t.Run("FlagsBehindTheNameAreOurs", func(t *testing.T) {
		if out := ok(t, "exec", pod, "-c", "main", "-n", "default", "--", "echo", "-n"); out != "-n\n" {
			t.Errorf("exec printed %q", out)
		}
		if out := ok(t, "exec", pod, "echo", "-c"); out != "-c\n" {
			t.Errorf("exec without dashes printed %q", out)
		}
		refused(t, "nope", "exec", pod, "-c", "nope", "--", "true")
		refused(t, "unknown flag: --nope", "exec", pod, "--nope", "--", "true")
		refused(t, "what to run?", "exec", pod, "-t")
	})
	refused(t, "not found", "exec", "pod/nope", "--", "true")
	refused(t, "want pod/<name>", "exec", "node/w1", "--", "true")
	refused(t, "app/default/nope", "exec", "app/nope", "--", "true")
}

// testFollow: logs -f goes on where it was when the server comes back, and
// shows pods that come later.
func testFollow(t *testing.T, c *testcluster.Cluster) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pr, pw := io.Pipe()
	run := &cli{in: strings.NewReader(""), out: pw, err: io.Discard}
	root := run.root()
	root.SetArgs([]string{"logs", "-f", "app/web"})
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx); pw.Close() }()
	lines := make(chan string, 100)
	go func() {
		for s := bufio.NewScanner(pr); s.Scan(); {
			lines <- s.Text()
		}
		close(lines)
	}()
	seen := map[string]int{}
	await := func(n int) {
		t.Helper()
		for deadline := time.After(20 * time.Second); len(seen) < n; {
			select {
			case l := <-lines:
				seen[l]++
			case <-deadline:
				t.Fatalf("saw %v, want lines of %d pods", seen, n)
			}
		}
	}
	await(2)
	c.Server.Stop()
	c.Server.Start()
	c.Await("the API answers", func(ctx context.Context) (bool, error) {
		_, err := client.Of(c.Client(), api.Apps).Get(ctx, api.DefaultNamespace, "web")
		return err == nil, err
	})
	c.Await("the nodes are connected", func(context.Context) (bool, error) {
		return clusterd("", "logs", "app/web").code == 0, nil
	})
	ok(t, "delete", "pod", podNames(t)[0])
	await(3)
	cancel()
	for l := range lines {
		seen[l]++
	}
	if err := <-done; err != nil {
		t.Errorf("logs -f ended with %v", err)
	}
	for line, n := range seen {
		if n != 1 {
			t.Errorf("%d times: %s", n, line)
		}
	}
}

func testCordon(t *testing.T) {
	for _, verb := range []string{"cordon", "cordon", "uncordon"} {
		if out := ok(t, "node", verb, "w1"); out != "node/w1 "+verb+"ed\n" {
			t.Errorf("node %s: %q", verb, out)
		}
		if out := ok(t, "get", "node", "w1"); strings.Contains(out, "cordoned") != (verb == "cordon") {
			t.Errorf("after %s:\n%s", verb, out)
		}
	}
	refused(t, "nope", "node", "cordon", "nope")
}

func testToken(t *testing.T, c *testcluster.Cluster) {
	refused(t, "over before it begins", "token", "create", "--role", "admin", "--ttl=-1h")
	join, err := pki.ParseJoinToken(ok(t, "token", "create", "--role", "node", "--ttl", "1h", "--uses", "2"))
	if err != nil {
		t.Fatal(err)
	}
	if out := ok(t, "get", "token", join.ID); !strings.Contains(out, " 0/2 ") {
		t.Errorf("none of its two uses was made:\n%s", out)
	}
	tok, err := client.Of(c.Client(), api.Tokens).Get(t.Context(), "", join.ID)
	if err != nil || tok.Spec.MaxUses != 2 || time.Until(tok.Spec.ExpiresAt) > time.Hour {
		t.Errorf("token %+v: %v", tok, err)
	}
	t.Setenv("CLUSTERD_TOKEN", strings.TrimSpace(ok(t, "token", "create", "--role", "admin")))
	ok(t, "get", "nodes")
	t.Setenv("CLUSTERD_TOKEN", pki.NewUserToken().Reveal())
	refused(t, "CLUSTERD_TOKEN", "get", "nodes")
	if pem, err := os.ReadFile(c.CAFile()); err != nil {
		t.Error(err)
	} else {
		t.Setenv("CLUSTERD_TOKEN", c.Token())
		t.Setenv("CLUSTERD_CACERT", string(pem))
		ok(t, "get", "nodes")
	}
}

// testRole: what a token may do, what it may not and why, without a file in sight.
func testRole(t *testing.T) {
	if out := ok(t, "role", "set", "looker", "--rule", "read,logs pods in default", "--rule", "read nodes"); out != "role looker gives read,logs pods in default; read nodes\n" {
		t.Errorf("role set: %q", out)
	}
	if out := ok(t, "get", "roles", "-o", "wide"); !strings.Contains(out, "read,logs pods in default; read nodes") {
		t.Errorf("roles:\n%s", out)
	}
	refused(t, "nodes are in no namespace", "role", "set", "looker", "--rule", "read nodes in default")
	refused(t, "go with no other role", "token", "create", "--role", "admin", "--role", "looker")
	refused(t, "role none does not exist", "token", "create", "--role", "none")
	refused(t, "--role is required", "token", "create")
	secret := strings.TrimSpace(ok(t, "token", "create", "ci", "--role", "looker", "--ttl", "1h"))
	if !strings.HasPrefix(secret, "ct_ci_") {
		t.Errorf("token ci is %.6s…", secret)
	}
	if out := ok(t, "get", "tokens"); !strings.Contains(out, "looker") {
		t.Errorf("tokens:\n%s", out)
	}
	t.Setenv("CLUSTERD_TOKEN", secret)
	ok(t, "get", "pods")
	ok(t, "get", "nodes")
	refused(t, `token ci may not read secrets in default: it needs a role with the rule { namespaces = ["default"], kinds = ["secrets"], verbs = ["read"] }`, "get", "secrets")
	refused(t, "only those of default", "get", "pods", "-A")
	refused(t, "token ci may not write roles", "role", "set", "mine", "--rule", "* * in *")
	if r := clusterd("", "version"); r.code != 0 || !strings.HasPrefix(r.out, "clusterd ") || strings.Contains(r.out, "server ") || !strings.Contains(r.err, "token ci may not read servers") {
		t.Errorf("version for who may not read servers: %+v", r)
	}
}

func testDelete(t *testing.T) {
	r := clusterd("", "delete", "app", "web")
	if r.code != 0 || r.out != "app/default/web deleted\n" {
		t.Fatalf("delete: %+v", r)
	}
	refused(t, "app/default/web", "get", "app", "web")
	refused(t, "app/default/web", "delete", "app/web")
	refused(t, "--force", "delete", "node", "w1") // it lives
	ok(t, "get", "node", "w1")
}

// testConfirmOff: only who is not heard of is off; what that leads to is not promised.
func testConfirmOff(t *testing.T, c *testcluster.Cluster) {
	refused(t, "so it is not off", "node", "confirm-off", "w2")
	c.Nodes["w2"].Kill()
	c.Await("w2 is dead", func(ctx context.Context) (bool, error) {
		n, err := client.Of(c.Client(), api.Nodes).Get(ctx, "", "w2")
		return err == nil && n.Status.Health.Gone(), err
	})
	if out := ok(t, "node", "confirm-off", "w2"); out != "node/w2 confirmed off: its pods may run elsewhere now\n" {
		t.Error(out)
	}
}

// TestDeleteNodeWithVolumes: a node that is gone may have had data that nobody
// else has.
func TestDeleteNodeWithVolumes(t *testing.T) {
	h := http.NewServeMux()
	h.HandleFunc("GET /v1/volumes", func(w http.ResponseWriter, r *http.Request) {
		if of := r.URL.Query().Get("node"); of != "w2" {
			t.Errorf("volumes of %q were asked for", of)
		}
		io.WriteString(w, `{"items":[{"kind":"Volume","meta":{"namespace":"shop","name":"db"}}]}`)
	})
	cl := client.InProcess(h)
	err := alone(t.Context(), cl, &api.Node{Meta: api.Meta{Name: "w2"}})
	if err == nil || !strings.Contains(err.Error(), "volume shop/db") || !strings.Contains(err.Error(), "--force") {
		t.Errorf("deleting it says %v", err)
	}
}

func testDrain(t *testing.T) {
	ok(t, "node", "drain", "w1", "--no-wait")
	if out := ok(t, "get", "node", "w1"); !strings.Contains(out, "ready,drain") {
		t.Error(out)
	}
	if out := ok(t, "describe", "node", "w1"); !strings.Contains(out, "draining") {
		t.Error(out)
	}
	ok(t, "node", "undrain", "w1")
	if out := ok(t, "get", "node", "w1"); strings.Contains(out, "drain") {
		t.Error(out)
	}
	refused(t, "nope", "node", "drain", "nope")
}

func testMarks(t *testing.T) {
	if out := ok(t, "node", "label", "w1", "disk=ssd", "tmp=x"); !strings.Contains(out, "disk=ssd") {
		t.Error(out)
	}
	if out := ok(t, "node", "label", "w1", "tmp-", "disk-"); strings.Contains(out, "disk") {
		t.Error(out)
	}
	if out := ok(t, "node", "taint", "w1", "dedicated=shop:no_schedule"); !strings.Contains(out, "dedicated=shop:no_schedule") {
		t.Error(out)
	}
	if out := ok(t, "get", "nodes", "-o", "wide"); !strings.Contains(out, "TAINTS") || !strings.Contains(out, "dedicated=shop:no_schedule") {
		t.Error(out)
	}
	refused(t, "no_execute", "node", "taint", "w1", "dedicated=shop:never")
	refused(t, "want dedicated=shop:no_schedule", "node", "taint", "w1", "dedicated=shop")
	if out := ok(t, "node", "taint", "w1", "dedicated-"); out != "node/w1 has none now\n" {
		t.Error(out)
	}
}

func testPlan(t *testing.T) {
	spec := ok(t, "get", "app", "web", "-o", "json")
	if out := clusterd(spec, "plan", "-f", "-"); out.code != 0 || !strings.Contains(out.out, "nothing changes") {
		t.Errorf("%+v", out)
	}
	more := strings.Replace(spec, `"spec": {`, `"spec": {"cpu": "900", `, 1)
	if out := clusterd(more, "plan", "-f", "-"); out.code != 0 || !strings.Contains(out.out, `+ spec.cpu = "900"`) || !strings.Contains(out.out, "no node fits") {
		t.Errorf("%+v", out)
	}
	if out := clusterd(more, "diff", "-f", "-"); out.code != 0 || strings.TrimSpace(out.out) != `+ spec.cpu = "900"` {
		t.Errorf("%+v", out)
	}
	job := `{"kind":"Job","meta":{"name":"once"},"spec":{"image":"report:1","completions":2}}`
	if out := clusterd(job, "plan", "-f", "-"); out.code != 0 || !strings.Contains(out.out, "The job runs.") || !strings.Contains(out.out, "Images\n  report:1 is sha256:") || !strings.Contains(out.out, "All 1 pods fit.") {
		t.Errorf("%+v", out)
	}
	wrong := strings.Replace(spec, `"spec": {`, `"spec": {"cpu": "much", `, 1)
	if out := clusterd(wrong, "plan", "-f", "-"); out.code != 1 || !strings.Contains(out.err, "spec.cpu") || out.out != "" {
		t.Errorf("%+v", out)
	}
}

// testRebalance: what the tests before have left is spread again, as planned, and
// then the pods are where they belong.
func testRebalance(t *testing.T, c *testcluster.Cluster) {
	c.Await("pods that were drained are gone", func(ctx context.Context) (bool, error) {
		pods, _, err := client.Of(c.Client(), api.Pods).List(ctx, "", nil)
		return !slices.ContainsFunc(pods, func(p *api.Pod) bool { return p.Meta.Deleting() || p.Spec.App == "web" && !p.Status.Ready }), err
	})
	plan := ok(t, "rebalance", "--plan")
	if out := ok(t, "rebalance", "-n", "default"); !strings.HasPrefix(out, plan) {
		t.Errorf("planned\n%s\ndone\n%s", plan, out)
	}
	if out := ok(t, "rebalance", "--plan"); !strings.HasPrefix(out, "Nothing to move: the fullest node has ") {
		t.Error(out)
	}
}

func testWhy(t *testing.T) {
	if out := ok(t, "why", "app/web"); !strings.HasPrefix(out, "app/default/web is healthy: ") {
		t.Error(out)
	}
	if out := ok(t, "why", "job/report"); !strings.HasPrefix(out, "job/default/report is waiting: ") {
		t.Error(out)
	}
	refused(t, "nope", "why", "pod/nope")
	refused(t, "clusterd describe node w1", "why", "node/w1")
}
