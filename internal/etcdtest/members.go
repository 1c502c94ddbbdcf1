package etcdtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
)

// memberEnv tells a process which member it is.
const memberEnv = "CLUSTERD_TEST_ETCD"

// Members are an etcd of several, each of them a process.
type Members struct {
	Endpoints []string

	t       testing.TB
	members []*member
}

// member is where one of several is, also after a restart.
type member struct {
	Name, Dir, Client, Peer string
	All                     string // name=peer of each

	process *exec.Cmd
}

// Serve is for the TestMain of tests that start Members: in a process that is to
// be one it does not return.
func Serve() {
	conf := os.Getenv(memberEnv)
	if conf == "" {
		return
	}
	if err := serve(conf); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(1)
}

// serve runs the member, and says on its output when it is ready.
func serve(conf string) error {
	var m member
	if err := json.Unmarshal([]byte(conf), &m); err != nil {
		return err
	}
	cfg := config(m.Dir)
	cfg.Name, cfg.InitialCluster = m.Name, m.All
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = loopback(m.Peer), loopback(m.Peer)
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = loopback(m.Client), loopback(m.Client)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	select {
	case <-e.Server.ReadyNotify():
		fmt.Println("ready")
	case err := <-e.Err():
		return err
	}
	return <-e.Err()
}

// StartMembers starts an etcd of n members. The package's TestMain calls Serve.
func StartMembers(t testing.TB, n int) *Members {
	t.Helper()
	c := &Members{t: t}
	var all []string
	for i, addr := range freePorts(t, 2*n) {
		if i%2 == 1 {
			m := c.members[i/2]
			m.Peer = addr
			all = append(all, m.Name+"=http://"+addr)
			continue
		}
		c.members = append(c.members, &member{Name: fmt.Sprint("etcd", i/2), Dir: t.TempDir(), Client: addr})
		c.Endpoints = append(c.Endpoints, "http://"+addr)
	}
	for i := range c.members {
		c.members[i].All = strings.Join(all, ",")
		defer c.begin(i)()
	}
	return c
}

// Start starts a member again that was killed, and returns once it serves.
func (c *Members) Start(i int) {
	c.t.Helper()
	c.begin(i)()
}

// begin starts a member, which needs others to become ready.
func (c *Members) begin(i int) (await func()) {
	t, m := c.t, c.members[i]
	t.Helper()
	conf, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	var said strings.Builder
	cmd.Env, cmd.Stderr = append(os.Environ(), memberEnv+"="+string(conf)), &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // dies with the test
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.process = cmd
	t.Cleanup(func() { m.kill(cmd) })
	return func() {
		t.Helper()
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			m.kill(cmd)
			t.Fatalf("%s does not start: %s", m.Name, said.String())
		}
	}
}

// Kill ends a member as kill -9 does.
func (c *Members) Kill(i int) {
	m := c.members[i]
	m.kill(m.process)
}

func (m *member) kill(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		cmd.Process.Kill()
		cmd.Wait()
	}
}

// freePorts are addresses on loopback that nobody listens on.
func freePorts(t testing.TB, n int) (addrs []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // not before all are found
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}
