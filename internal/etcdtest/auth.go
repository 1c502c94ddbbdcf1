package etcdtest

import (
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// User is one of an etcd that asks for passwords.
type User struct{ Name, Password string }

// Root may do everything.
var Root = User{"root", "root's own"}

// Right is one of a role: to what begins with Prefix.
type Right struct {
	Prefix string
	Type   clientv3.PermissionType
}

// Of is a right to all that clusterd does below a prefix, as its guide tells to
// grant it.
func Of(prefix string) Right {
	return Right{prefix + "/", clientv3.PermissionType(clientv3.PermReadWrite)}
}

// Add adds a user, whose role of the same name has the rights.
func Add(t testing.TB, c *clientv3.Client, u User, rights ...Right) {
	t.Helper()
	ok := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	ok(c.UserAdd(ctx, u.Name, u.Password))
	ok(c.RoleAdd(ctx, u.Name))
	for _, r := range rights {
		ok(c.RoleGrantPermission(ctx, u.Name, r.Prefix, clientv3.GetPrefixRangeEnd(r.Prefix), r.Type))
	}
	ok(c.UserGrantRole(ctx, u.Name, u.Name))
}

// Secure makes the etcd ask everybody for a password, and returns a client of
// its root.
func Secure(t testing.TB, endpoints ...string) *clientv3.Client {
	t.Helper()
	return SecureAt(t, clientv3.Config{Endpoints: endpoints})
}

// SecureAt does the same with an etcd that takes more to be reached.
func SecureAt(t testing.TB, conf clientv3.Config) *clientv3.Client {
	t.Helper()
	c := Client(t, conf)
	Add(t, c, Root)
	if _, err := c.AuthEnable(t.Context()); err != nil {
		t.Fatal(err)
	}
	conf.Username, conf.Password = Root.Name, Root.Password
	return Client(t, conf)
}

// Client is one that ends with the test.
func Client(t testing.TB, conf clientv3.Config) *clientv3.Client {
	t.Helper()
	conf.Logger = zap.NewNop()
	c, err := clientv3.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
