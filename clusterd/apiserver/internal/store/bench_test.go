package store_test

import (
	"fmt"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
)

// BenchmarkBareBinds is the floor of what a scheduler can do here: etcd with
// nothing around it, transactions of a hundred objects of a pod's size that must
// be as they were, each on disk before the next.
func BenchmarkBareBinds(b *testing.B) {
	const pods, batch = 10_000, 100
	s, err := store.OpenEtcd(b.Context(), func() store.EtcdConfig { c := etcdConfig(b, b.TempDir()); c.NoSync = false; return c }())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	value := make([]byte, 1200)
	revision := make([]int64, pods)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		from := n % pods
		var t store.Txn
		for i := from; i < from+batch; i++ {
			key := fmt.Sprintf("/pods/%05d", i)
			t.If, t.Then = append(t.If, store.Compare{Key: key, Revision: revision[i]}), append(t.Then, store.Put(key, value))
		}
		at, err := s.Commit(b.Context(), t)
		if err != nil {
			b.Fatal(err)
		}
		for i := from; i < from+batch; i++ {
			revision[i] = at
		}
		n += batch
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "binds/s")
}
