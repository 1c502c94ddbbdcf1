// Package packaging has what a machine gets besides the programs: systemd's
// units, examples of settings, and the Debian packages of all of it.
package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var program = regexp.MustCompile(`/usr/bin/(clusterd|nodeagent)\b`)

// verify is what systemd has to say about units; the programs they start need
// not be installed for it.
func verify(t *testing.T, units map[string]string) string {
	t.Helper()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here: apt-get install systemd")
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for name, text := range units {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(program.ReplaceAllString(text, "/bin/true")), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	out, err := exec.Command(analyze, args...).CombinedOutput()
	if err != nil {
		return string(out) + err.Error()
	}
	return string(out)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSystemdAcceptsTheUnits(t *testing.T) {
	paths, err := filepath.Glob("systemd/*")
	if err != nil || len(paths) < 4 {
		t.Fatalf("units %v, %v", paths, err)
	}
	units := map[string]string{}
	for _, path := range paths {
		units[filepath.Base(path)] = read(t, path)
	}
	if said := verify(t, units); said != "" {
		t.Error(said)
	}
	// It would say so if it did not: of a word it does not know, too.
	if said := verify(t, map[string]string{"x.service": "[Service]\nExecStart=/bin/true\nKillMod=process\n"}); !strings.Contains(said, "KillMod") {
		t.Errorf("a mistake is not found: %q", said)
	}
}

// TestContainersOutliveTheAgent: the unit tells only the agent to stop, and has
// nothing that containers would inherit, or that gives it mounts of its own.
func TestContainersOutliveTheAgent(t *testing.T) {
	known := []string{"Type", "EnvironmentFile", "ExecStart", "Restart", "RestartSec", "TimeoutStopSec", "KillMode", "Delegate", "TasksMax"}
	text := read(t, "systemd/nodeagent.service")
	for _, want := range []string{"\nKillMode=process\n", "\nDelegate=yes\n", "\nTasksMax=infinity\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", strings.TrimSpace(want))
		}
	}
	_, service, _ := strings.Cut(text, "[Service]\n")
	service, _, _ = strings.Cut(service, "[Install]")
	for line := range strings.Lines(service) {
		key, _, ok := strings.Cut(line, "=")
		if ok && !strings.HasPrefix(line, "#") && !slices.Contains(known, key) {
			t.Errorf("%s: do containers, and the mounts they are pinned by, outlive an agent with this? Then name it here", strings.TrimSpace(line))
		}
	}
}

// machine is a directory that packages are installed in as if it was a
// machine's root. Its systemctl writes down what it is asked.
type machine struct {
	t    *testing.T
	root string
	log  string
	bin  string // of the programs to pack
}

func newMachine(t *testing.T, systemd bool) *machine {
	t.Helper()
	for _, tool := range []string{"dpkg", "dpkg-deb", "systemd-sysusers"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s here: this needs Debian's dpkg and systemd", tool)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("to install packages takes root")
	}
	dir := t.TempDir()
	m := &machine{t: t, root: filepath.Join(dir, "root"), log: filepath.Join(dir, "log"), bin: filepath.Join(dir, "bin")}
	for _, d := range []string{m.bin, filepath.Join(dir, "path"), filepath.Join(m.root, "var/lib/dpkg/info"), filepath.Join(m.root, "var/lib/dpkg/updates"), filepath.Join(m.root, "etc")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if systemd {
		if err := os.MkdirAll(filepath.Join(m.root, "run/systemd/system"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.write(filepath.Join(m.root, "var/lib/dpkg/status"), "")
	m.write(filepath.Join(dir, "path/systemctl"), "#!/bin/sh\necho \"$@\" >>"+m.log+"\n")
	t.Setenv("PATH", filepath.Join(dir, "path")+":"+os.Getenv("PATH"))
	return m
}

func (m *machine) write(path, text string) {
	m.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// build packs programs that say their version, and returns the packages.
func (m *machine) build(version string) []string {
	m.t.Helper()
	for _, name := range []string{"clusterd", "nodeagent", "clusterd-shim"} {
		m.write(filepath.Join(m.bin, name), "#!/bin/sh\necho "+version+"\n")
	}
	out := m.t.TempDir()
	if said, err := exec.Command("./build", m.bin, version, "all", out).CombinedOutput(); err != nil {
		m.t.Fatalf("build: %v\n%s", err, said)
	}
	debs, err := filepath.Glob(filepath.Join(out, "*.deb"))
	if err != nil || len(debs) != 2 {
		m.t.Fatalf("packages %v, %v", debs, err)
	}
	return debs
}

// dpkg runs, and returns what systemctl was asked since.
func (m *machine) dpkg(args ...string) (asked string) {
	m.t.Helper()
	os.Remove(m.log)
	args = append([]string{"--root=" + m.root, "--log=/dev/null", "--force-script-chrootless", "--force-depends", "--force-confold"}, args...)
	if said, err := exec.Command("dpkg", args...).CombinedOutput(); err != nil {
		m.t.Fatalf("dpkg %v: %v\n%s", args, err, said)
	}
	b, _ := os.ReadFile(m.log)
	return string(b)
}

func TestPackages(t *testing.T) {
	m := newMachine(t, true)
	asked := m.dpkg(append([]string{"--install"}, m.build("1.0.0-rc1")...)...)
	if strings.Contains(asked, "start") || strings.Contains(asked, "enable") || !strings.Contains(asked, "daemon-reload") {
		t.Errorf("the first install, which is not set up yet, asked:\n%s", asked)
	}
	for path, mode := range map[string]os.FileMode{
		"usr/bin/clusterd": 0o755, "usr/bin/nodeagent": 0o755, "usr/bin/clusterd-shim": 0o755,
		"usr/lib/systemd/system/clusterd.service": 0o644, "usr/lib/systemd/system/nodeagent.service": 0o644,
		"etc/clusterd/server.hcl": 0o644, "etc/clusterd/nodeagent.hcl": 0o644,
		"etc/clusterd/server.env": 0o600, "etc/clusterd/nodeagent.env": 0o600,
	} {
		info, err := os.Stat(filepath.Join(m.root, path))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if users := read(t, filepath.Join(m.root, "etc/passwd")); !strings.Contains(users, "clusterd:") {
		t.Errorf("no user clusterd in %q", users)
	}

	// An upgrade, also from a candidate, restarts what runs, stops nothing, and
	// keeps what the operator wrote.
	m.write(filepath.Join(m.root, "etc/clusterd/server.hcl"), "name = \"s1\"\n")
	asked = m.dpkg(append([]string{"--install"}, m.build("1.0.0")...)...)
	for _, unit := range []string{"clusterd", "nodeagent"} {
		if strings.Count(asked, "try-restart "+unit+".service") != 1 {
			t.Errorf("the upgrade does not restart %s:\n%s", unit, asked)
		}
	}
	if strings.Contains(asked, "stop") || strings.Contains(asked, "disable") {
		t.Errorf("the upgrade stops something:\n%s", asked)
	}
	if got := read(t, filepath.Join(m.root, "etc/clusterd/server.hcl")); got != "name = \"s1\"\n" {
		t.Errorf("the upgrade wrote over the settings: %s", got)
	}
	if got := read(t, filepath.Join(m.root, "usr/bin/nodeagent")); !strings.Contains(got, "echo 1.0.0\n") {
		t.Errorf("after the upgrade nodeagent is %s", got)
	}

	state := filepath.Join(m.root, "var/lib/clusterd/server")
	if err := os.MkdirAll(state, 0o755); err != nil {
		t.Fatal(err)
	}
	asked = m.dpkg("--purge", "clusterd", "nodeagent")
	for _, want := range []string{"disable --now clusterd.service clusterd-snapshot.timer", "disable --now nodeagent.service"} {
		if !strings.Contains(asked, want) {
			t.Errorf("removal did not %s:\n%s", want, asked)
		}
	}
	if _, err := os.Stat(filepath.Join(m.root, "etc/clusterd")); err == nil {
		t.Error("a purge leaves the settings")
	}
	if _, err := os.Stat(state); err != nil {
		t.Errorf("a purge takes the cluster's state: %v", err)
	}
}

// TestPackagesWithoutSystemd: an image that is being built has no systemd to ask.
func TestPackagesWithoutSystemd(t *testing.T) {
	m := newMachine(t, false)
	for _, version := range []string{"8fa86a7", "1.0.0", "1.0.0-3-gabcdef1-dirty"} { // each newer than the last
		if asked := m.dpkg(append([]string{"--refuse-downgrade", "--install"}, m.build(version)...)...); asked != "" {
			t.Errorf("asked %s", asked)
		}
		if got := read(t, filepath.Join(m.root, "usr/bin/clusterd")); !strings.Contains(got, "echo "+version+"\n") {
			t.Errorf("%s is taken for older than what is installed: %s", version, got)
		}
	}
}
