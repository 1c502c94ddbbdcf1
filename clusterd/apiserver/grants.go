package apiserver

import (
	"encoding/json"
	"fmt"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/wire"
)

// Roles and tokens are what rights are given with, so nobody writes one by which
// somebody would have a right that its writer has not: neither a role with more
// rules, nor a token with a stronger role, nor a new secret for such a token.

// rightsOf returns what a token's roles give; get finds objects by their key. A
// role that does not exist gives nothing.
func (s *Server) rightsOf(t api.TokenSpec, get func(key string) *object) (all api.Rights, err error) {
	switch t.Role {
	case api.RoleAdmin:
		return api.AllRights(), nil
	case api.RoleNode:
		return joining(s.kinds["nodes"]), nil
	case api.RoleServer:
		return joining(s.kinds["servers"]), nil
	}
	for _, name := range t.Roles {
		o := get(s.kinds["roles"].key("", name))
		if o == nil {
			continue
		}
		var role api.RoleSpec
		if err := wire.Unmarshal(o.spec, &role); err != nil {
			return nil, fmt.Errorf("decode %s: %w", o.ref(), err)
		}
		all = append(all, role.Rights()...)
	}
	return all, nil
}

// joining is what it takes to make a token that machines join with.
func joining(k *kind) api.Rights {
	return api.Rights{api.RightTo(api.VerbJoin, k.info, "", "").Rule()}
}

// checkRole refuses a role that gives more than its writer has.
func (t *txn) checkRole(r *api.Role) error {
	if api.BuiltIn(r.Meta.Name) {
		return invalid(r.Ref(), api.Errors{{Path: "meta.name", Message: fmt.Sprintf("%s is built in: take another name", r.Meta.Name)}})
	}
	return t.mayGive(r.Ref(), "would give", r.Spec.Rights())
}

// checkToken refuses a token that may do more than its writer, as it was and as
// it is to be: who gives it another secret could use it.
func (t *txn) checkToken(old *object, tok *api.Token) error {
	var errs api.Errors
	for i, name := range tok.Spec.Roles {
		if t.read(t.s.kinds["roles"].key("", name)) == nil {
			errs.Addf(fmt.Sprintf("spec.roles[%d]", i), "role %s does not exist: create it first", name)
		}
	}
	if errs != nil {
		return invalid(tok.Ref(), errs)
	}
	if old != nil {
		var was api.TokenSpec
		if err := json.Unmarshal(old.spec, &was); err != nil {
			return fmt.Errorf("decode %s: %w", old.ref(), err)
		}
		rights, err := t.s.rightsOf(was, t.read)
		if err == nil {
			err = t.mayGive(tok.Ref(), "gives", rights)
		}
		if err != nil {
			return err
		}
	}
	rights, err := t.s.rightsOf(tok.Spec, t.read)
	if err != nil {
		return err
	}
	return t.mayGive(tok.Ref(), "would give", rights)
}

// mayGive demands of a user that it has all the rights it gives.
func (t *txn) mayGive(ref api.Ref, gives string, rights api.Rights) error {
	if t.by.Role == RoleSystem {
		return nil
	}
	if lack, more := t.by.rights.Lack(rights); more {
		return conflict(api.Denied, ref, "token %s may not give what it has not: this %s %s; let somebody write it who has that, such as an admin", t.by.Name, gives, lack.Rule().HCL())
	}
	return nil
}
