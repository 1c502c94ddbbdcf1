package testcluster

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/server"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/etcdtest"
	"github.com/clusterd/terraform-provider-clusterd/internal/guidetest"
)

// TestSharedEtcdLosesMembers (P1, P2): two servers share an etcd of three members
// as the guide has it made, with a user who may nothing but what it grants, whose
// token ends after a second. Each member is killed in turn, and comes back: no
// server ends, the history is one store's, and watches have no gap. Nobody tells
// the password.
func TestSharedEtcdLosesMembers(t *testing.T) {
	t.Parallel()
	const password = "hunter2 of this cluster"
	etcd := etcdtest.StartMembers(t, 3)
	etcdctl(t, etcdtest.Secure(t, etcd.Endpoints...), password)
	var told bytes.Buffer
	var telling sync.Mutex
	c := Start(t, Config{
		Servers: 2, Nodes: 1,
		External: server.Etcd{Endpoints: etcd.Endpoints, Username: "clusterd", PasswordFile: secret(t, password+"\n", 0o600)},
		Log:      hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &told, Mutex: &telling}),
	})
	linearizable(t, c, len(etcd.Endpoints), func(round int) (string, func()) {
		etcd.Kill(round)
		return fmt.Sprint("member ", round), func() { etcd.Start(round) }
	})
	for _, s := range c.Servers {
		if s.cancel == nil || len(s.done) > 0 {
			t.Errorf("%s has ended", s.name)
		}
	}
	telling.Lock()
	defer telling.Unlock()
	if told.Len() == 0 || strings.Contains(told.String(), password) {
		t.Errorf("of a log of %d bytes one line has the password", told.Len())
	}
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && bytes.Contains(b, []byte(password)) {
			t.Errorf("%s has the password", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// etcdctl does what the guide's commands of that name do.
func etcdctl(t *testing.T, root *clientv3.Client, password string) {
	t.Helper()
	ctx, done := t.Context(), 0
	for _, said := range guidetest.Commands(t, "../../docs/guides/operations.md") {
		if said.Words[0] != "etcdctl" {
			continue
		}
		words, err := said.Words[1:], error(nil)
		switch line := strings.Join(words, " "); {
		case line == "user add clusterd --interactive=false":
			_, err = root.UserAdd(ctx, words[2], password)
		case len(words) == 3 && strings.HasPrefix(line, "role add "):
			_, err = root.RoleAdd(ctx, words[2])
		case len(words) == 6 && strings.HasPrefix(line, "role grant-permission ") && words[3] == "readwrite" && words[4] == "--prefix=true":
			_, err = root.RoleGrantPermission(ctx, words[2], words[5], clientv3.GetPrefixRangeEnd(words[5]), clientv3.PermissionType(clientv3.PermReadWrite))
		case len(words) == 4 && strings.HasPrefix(line, "user grant-role "):
			_, err = root.UserGrantRole(ctx, words[2], words[3])
		default:
			err = fmt.Errorf("the test does not know etcdctl %s", line)
		}
		if done++; err != nil {
			t.Fatalf("line %d of the guide: %v", said.Line, err)
		}
	}
	if done == 0 {
		t.Fatal("the guide has no commands of etcdctl")
	}
}

// secret is a file with text.
func secret(t *testing.T, text string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etcd-password")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

// What cannot be a user of the etcd is refused before anything is written, there
// and in the data directory. A password that is changed is taken up.
func TestUserOfTheEtcd(t *testing.T) {
	t.Parallel()
	endpoint := etcdtest.Start(t, nil)
	root := etcdtest.Secure(t, endpoint)
	etcdtest.Add(t, root, etcdtest.User{Name: "clusterd", Password: "right"}, etcdtest.Of("/clusterd"))
	etcdtest.Add(t, root, etcdtest.User{Name: "other", Password: "right"}, etcdtest.Of("/other"))
	right := secret(t, "right", 0o600)
	for name, o := range map[string]struct {
		user, file string
		want       string
	}{
		"nobody":             {"", "", "--etcd-endpoints: use the etcd at " + endpoint + ": read: the etcd does not let this server in: it wants a user: give --etcd-username and --etcd-password-file"},
		"no password":        {"clusterd", "", "--etcd-username clusterd: give its password in a file, with --etcd-password-file"},
		"whose password":     {"", right, "--etcd-password-file: say whose password it is, with --etcd-username"},
		"no such file":       {"clusterd", "/nowhere", "--etcd-password-file: open /nowhere: no such file"},
		"a directory":        {"clusterd", t.TempDir(), "--etcd-password-file: "},
		"empty":              {"clusterd", secret(t, "\n", 0o600), "is empty: want the password of clusterd in it"},
		"for all to read":    {"clusterd", secret(t, "right", 0o644), "is open to every user of this machine (mode 0644): chmod 600 "},
		"for all to write":   {"clusterd", secret(t, "right", 0o602), "(mode 0602): chmod 600 "},
		"another password":   {"clusterd", secret(t, "wrong", 0o600), "as clusterd: say who we are: the etcd does not let this server in: it has no such user, or the password is another: compare --etcd-username and --etcd-password-file"},
		"not of this prefix": {"other", right, "as other: read: the etcd does not let this server in: the user may not read and write all that is below --etcd-prefix: etcdctl role grant-permission"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "server")
			refusedStart(t, server.Config{DataDir: dir, Etcd: server.Etcd{Endpoints: []string{endpoint}, Username: o.user, PasswordFile: o.file}}, o.want)
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("it left %v", left)
			}
		})
	}
	if r, err := root.Get(t.Context(), "", clientv3.WithPrefix()); err != nil || r.Count > 0 {
		t.Errorf("the etcd has %v (%v)", r.Kvs, err)
	}

	file := secret(t, "right\r\n", 0o640)
	c := Start(t, Config{External: server.Etcd{Endpoints: []string{endpoint}, Username: "clusterd", PasswordFile: file}})
	put := func(name string) error {
		_, err := client.Of(c.Client(), api.Namespaces).Create(t.Context(), &api.Namespace{Meta: api.Meta{Name: name}})
		return err
	}
	if _, err := root.UserChangePassword(t.Context(), "clusterd", "changed"); err != nil {
		t.Fatal(err)
	}
	if err := put("refused"); !api.Is(err, api.Unready) || !strings.Contains(err.Error(), "the etcd does not let this server in: the server's log says why") {
		t.Errorf("a write with the password of before: %v", err)
	}
	if err := os.WriteFile(file, []byte("changed\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := put("taken"); err != nil {
		t.Errorf("a write with the new password: %v", err)
	}
}
