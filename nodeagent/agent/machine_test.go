package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

func TestShare(t *testing.T) {
	for text, want := range map[string]int64{"100%": 4000, "50%": 2000, "33.3%": 1332, "500m": 500, "2": 2000} {
		if got, err := share("--allocatable-cpu", text, 4000, api.ParseCPU); err != nil || got != want {
			t.Errorf("%s of 4 cores is %dm, %v; want %dm", text, got, err, want)
		}
	}
	for text, want := range map[string]string{"0%": "at most 100%", "101%": "at most 100%", "x%": "at most 100%", "abc": "or a share", "5": "more than the machine has"} {
		if _, err := share("--allocatable-cpu", text, 4000, api.ParseCPU); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestMachine(t *testing.T) {
	st, err := Machine("50%", "90%")
	if err != nil {
		t.Fatal(err)
	}
	if st.Capacity.CPU.Milli() != 2*st.Allocatable.CPU.Milli() || st.Allocatable.Memory.Bytes() >= st.Capacity.Memory.Bytes() || st.BootID == "" || st.OS == "" {
		t.Errorf("machine is %+v", st)
	}
}

func TestDir(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "pods"))
	if got, err := d.Load(); err != nil || len(got) != 0 {
		t.Errorf("an absent directory has %v, %v", got, err)
	}
	for _, uid := range []string{"a", "b"} {
		if err := d.Save(uid, []byte("1"+uid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Save("a", []byte("2a")); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete("b"); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete("b"); err != nil {
		t.Errorf("deleting twice: %v", err)
	}
	if err := os.WriteFile(filepath.Join(string(d), ".c.json-123"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := d.Load()
	if err != nil || len(got) != 1 || string(got["a"]) != "2a" {
		t.Errorf("has %q, %v", got, err)
	}
}
