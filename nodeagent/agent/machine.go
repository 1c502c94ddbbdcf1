package agent

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
)

// maxPods fit into a node's /24 with room for addresses to rest.
const maxPods = 220

// Machine is the status of this machine as a node. What pods may reserve is
// given as an amount ("2", "500m", "4Gi") or as a share of the machine ("33%").
func Machine(cpu, memory string) (api.NodeStatus, error) {
	bytes, err := memoryOf("/proc/meminfo")
	if err != nil {
		return api.NodeStatus{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return api.NodeStatus{}, err
	}
	milli := int64(runtime.NumCPU()) * 1000
	mayCPU, err := share("--allocatable-cpu", cpu, milli, api.ParseCPU)
	if err != nil {
		return api.NodeStatus{}, err
	}
	mayBytes, err := share("--allocatable-memory", memory, bytes, api.ParseMemory)
	if err != nil {
		return api.NodeStatus{}, err
	}
	return api.NodeStatus{
		Capacity:    resources(milli, bytes),
		Allocatable: resources(mayCPU, mayBytes),
		Version:     daemon.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
		BootID: strings.TrimSpace(string(boot)),
	}, nil
}

func resources(milli, bytes int64) api.Resources {
	cpu := fmt.Sprintf("%dm", milli)
	if milli%1000 == 0 {
		cpu = strconv.FormatInt(milli/1000, 10)
	}
	return api.Resources{CPU: api.CPU(cpu), Memory: api.Memory(fmt.Sprintf("%dMi", bytes>>20)), Pods: maxPods}
}

// share reads an amount, or a percentage of all.
func share(flag, text string, all int64, parse func(string) (int64, error)) (int64, error) {
	if percent, ok := strings.CutSuffix(text, "%"); ok {
		p, err := strconv.ParseFloat(percent, 64)
		if err != nil || !(p > 0 && p <= 100) {
			return 0, fmt.Errorf("%s %q: want more than 0%% and at most 100%%", flag, text)
		}
		return int64(float64(all) * p / 100), nil
	}
	n, err := parse(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w, or a share such as \"33%%\"", flag, err)
	}
	if n > all {
		return 0, fmt.Errorf("%s %q is more than the machine has", flag, text)
	}
	return n, nil
}

func memoryOf(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		// MemTotal:       24689784 kB
		if f := strings.Fields(s.Text()); len(f) == 3 && f[0] == "MemTotal:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("%s does not say how much memory there is", path)
}
