package server

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// TestLostTokensAreReplacedAtTheSocket: with every token gone, root of a
// server's machine makes a new one, also after a restart, and it is on record.
func TestLostTokensAreReplacedAtTheSocket(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, dir, etcd)
	all := client.Of(admin(t, s, dir), api.Tokens)
	there, _, err := all.List(t.Context(), "", nil)
	if err != nil || len(there) != 1 {
		t.Fatalf("%d tokens (%v)", len(there), err)
	}
	if err := all.Delete(t.Context(), "", there[0].Meta.Name, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := all.List(t.Context(), "", nil); !api.Is(err, api.Unauthenticated) {
		t.Errorf("a deleted token: %v", err)
	}
	path := filepath.Join(dir, SocketFile)
	local := func() *client.Kind[*api.Token] {
		c, err := client.New(client.Config{Socket: path})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return client.Of(c, api.Tokens)
	}
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("the socket is %v (%v)", fi, err)
	}
	tok := pki.NewUserToken()
	if _, err := local().Create(t.Context(), &api.Token{Meta: api.Meta{Name: tok.ID}, Spec: api.TokenSpec{Role: api.RoleAdmin, Hash: tok.Hash()}}); err != nil {
		t.Fatal(err)
	}
	roots, err := pki.LoadRoots(filepath.Join(dir, CACertFile))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{Addresses: []string{"https://" + s.Addr()}, Token: tok.Reveal(), TLS: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := client.Of(c, api.Tokens).List(t.Context(), "", nil); err != nil {
		t.Errorf("with the new token: %v", err)
	}
	log, err := os.ReadFile(filepath.Join(dir, auditFile))
	if err != nil || !strings.Contains(string(log), `"who":"user:root@s1"`) || !strings.Contains(string(log), tok.ID) {
		t.Errorf("the audit log says %s (%v)", log, err)
	}
	stop()
	start(t, dir, etcd)
	if _, _, err := local().List(t.Context(), "", nil); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// TestOnlyRootIsLetIn: whoever else comes to the socket, whatever its mode, is
// hung up on.
func TestOnlyRootIsLetIn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@" + t.Name(), Net: "unix"}) // has no mode
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := rootsOnly{l, hclog.NewNullLogger()}.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("in"))
			c.Close()
		}
	}()
	says := func(uid int) string {
		said := make(chan string)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with its user
			if uid != 0 {
				const leave = ^uintptr(0)
				if _, _, err := syscall.RawSyscall(syscall.SYS_SETRESUID, leave, uintptr(uid), leave); err != 0 {
					t.Error(err)
				}
			}
			c, err := net.Dial("unix", "@"+t.Name())
			if err != nil {
				said <- err.Error()
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			b := make([]byte, 8)
			n, _ := c.Read(b)
			said <- string(b[:n])
		}()
		return <-said
	}
	if got := says(65534); got != "" {
		t.Errorf("nobody is told %q", got)
	}
	if got := says(0); got != "in" {
		t.Errorf("root is told %q", got)
	}
	for uid, own := range map[uint32]int{1000: 0, 65534: 1000, 1: -1} {
		if trusted(uid, own) {
			t.Errorf("user %d is trusted by %d", uid, own)
		}
	}
	if !trusted(0, 1000) || !trusted(1000, 1000) {
		t.Error("neither root nor the server's own user is trusted")
	}
}
