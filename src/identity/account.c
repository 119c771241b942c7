/*-------------------------------------------------------------------------
 *
 * account.c
 *	  Who is a member of which account: questions to cdp.account_evidence.
 *
 *	  A profile is a member from an entry that names it together with the
 *	  account until one that says that it has left; or by the domain of an
 *	  address of e-mail, where entries say nothing.  Evidence belongs to nodes
 *	  and is never moved: what is the latest among the nodes of a profile is
 *	  asked when somebody wants to know, one index probe a node and account.
 *
 * IDENTIFICATION
 *	  src/identity/account.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "storage/bufmgr.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "compat.h"
#include "identity/account.h"
#include "statement.h"

/* the members (profile_id, at) of an account */
#define MEMBERS(account, instant) \
	"(SELECT w.profile_id, w.at FROM" \
	" (SELECT DISTINCT ON (i.profile_id) i.profile_id, COALESCE(x.at, i.first_seen) AS at," \
	" x.leaves FROM cdp.account_nodes n JOIN cdp.identities i ON i.node_id = n.node_id" \
	CDP_LATEST_EVIDENCE("n.node_id", "n.account_id", instant) \
	" WHERE n.account_id = " account \
	" AND (x.at IS NOT NULL OR (n.by_domain AND i.first_seen <= " instant "))" \
	" ORDER BY i.profile_id, x.at DESC NULLS LAST, x.tie DESC NULLS LAST," \
	" i.first_seen DESC) w" \
	" WHERE COALESCE(NOT w.leaves, EXISTS (SELECT FROM " CDP_MEMBERSHIPS("w.profile_id", instant) \
	" m WHERE m.account_id = " account ")))"

static CdpStatement accounts_of = {
	"SELECT y.account_id, u.profile_id, y.at"
	" FROM (SELECT unnest($1) AS profile_id) AS u"
	" CROSS JOIN LATERAL " CDP_MEMBERSHIPS("u.profile_id", "$2") " y"
	" JOIN cdp.account_identities a ON a.account_id = y.account_id"
	" ORDER BY u.profile_id, y.at DESC, y.tie DESC, a.identifier",
	{"int8[]", "timestamptz"}
};

static CdpStatement members_of = {
	"SELECT u.account_id, y.profile_id, y.at"
	" FROM (SELECT unnest($1) AS account_id) AS u"
	" CROSS JOIN LATERAL " MEMBERS("u.account_id", "$2") " y"
	" ORDER BY u.account_id, y.profile_id",
	{"int8[]", "timestamptz"}
};

static CdpStatement account_of = {
	"SELECT a.account_id FROM cdp.account_identities a WHERE a.identifier = $1::cdp.identifier",
	{"text"}
};

static CdpStatement names_of = {
	"SELECT u.place, a.identifier FROM unnest($1) WITH ORDINALITY AS u (account_id, place)"
	" JOIN cdp.account_identities a ON a.account_id = u.account_id",
	{"int8[]"}
};

static CdpMembership *
read_memberships(CdpStatement *statement, const int64 *ids, int nids, TimestampTz at, int *n)
{
	Datum		args[2];
	CdpMembership *result;

	args[0] = CdpInt8Array(ids, nids);
	args[1] = TimestampTzGetDatum(at);
	*n = CdpRunHere(statement, args, NULL);
	result = palloc(sizeof(CdpMembership) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		result[i].account_id = CdpCellInt8(i, 1);
		result[i].profile_id = CdpCellInt8(i, 2);
		result[i].named_at = CdpCellInt8(i, 3);
	}
	SPI_freetuptable(SPI_tuptable);
	return result;
}

CdpMembership *
CdpAccountsOfProfiles(const int64 *profiles, int nprofiles, TimestampTz at, int *n)
{
	return read_memberships(&accounts_of, profiles, nprofiles, at, n);
}

CdpMembership *
CdpMembersOfAccounts(const int64 *accounts, int naccounts, TimestampTz at, int *n)
{
	return read_memberships(&members_of, accounts, naccounts, at, n);
}

CdpIdentifier **
CdpAccountNames(const CdpMembership *memberships, int n)
{
	int64	   *ids = palloc(sizeof(int64) * Max(n, 1));
	CdpIdentifier **names = palloc0(sizeof(CdpIdentifier *) * Max(n, 1));
	Datum		arg;

	for (int i = 0; i < n; i++)
		ids[i] = memberships[i].account_id;
	arg = CdpInt8Array(ids, n);
	CdpRunHere(&names_of, &arg, NULL);
	if (SPI_processed != n)
		elog(ERROR, "an account has evidence and no row");
	for (int i = 0; i < n; i++)
		names[CdpCellInt8(i, 1) - 1] = CdpCellVarlena(i, 2, CurrentMemoryContext);
	SPI_freetuptable(SPI_tuptable);
	return names;
}

int64
CdpAccountOfIdentifier(int64 generation, const CdpIdentifier *raw)
{
	CdpIdentifier *canonical = CdpCanonicalArgument(generation, raw);
	Datum		arg = PointerGetDatum(canonical);
	int64		account = 0;

	if (canonical == NULL)
		return 0;
	if (CdpRunHere(&account_of, &arg, NULL) == 1)
		account = CdpCellInt8(0, 1);
	SPI_freetuptable(SPI_tuptable);
	return account;
}

bool
CdpAccountsExist(void)
{
	/*
	 * Asked for every profile of a query: "no" holds for whoever sees the same.
	 * Of two snapshots of one transaction with the same xmax the later one has
	 * fewer others in progress, or sees the same but for what it has written itself.
	 * (In the next transaction what this one has written is there, and neither
	 * xmax nor the number of others need have changed.)
	 */
	static LocalTransactionId lxid = InvalidLocalTransactionId;
	static TransactionId xmax;
	static uint32 xcnt;
	static CommandId command;
	Snapshot	snapshot = GetActiveSnapshot();
	Relation	rel;
	bool		exist = false;

	if (lxid != InvalidLocalTransactionId && lxid == CdpMyLxid && snapshot->xmax == xmax &&
		snapshot->xcnt == xcnt && snapshot->curcid == command)
		return false;
	lxid = InvalidLocalTransactionId;
	rel = table_open(CdpRelationOid("account_identities"), AccessShareLock);
	if (RelationGetNumberOfBlocks(rel) > 0)
	{
		TupleTableSlot *slot = table_slot_create(rel, NULL);
		TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);

		exist = table_scan_getnextslot(scan, ForwardScanDirection, slot);
		table_endscan(scan);
		ExecDropSingleTupleTableSlot(slot);
	}
	table_close(rel, AccessShareLock);
	if (!exist && !snapshot->takenDuringRecovery)
	{
		lxid = CdpMyLxid;
		xmax = snapshot->xmax;
		xcnt = snapshot->xcnt;
		command = snapshot->curcid;
	}
	return exist;
}

CdpIdentifier *
CdpAccountIdentifier(CdpKindSet *kinds, const char *text, int len,
					 const char *kind, int kindlen)
{
	const char *colon = memchr(text, ':', len);
	CdpIdentifier *canonical = NULL;
	CdpIdentifier *raw;
	CdpKind    *found;

	if (colon != NULL && CdpKindLookup(kinds, text, colon - text)->account)
	{
		kind = text;
		kindlen = colon - text;
		len -= kindlen + 1;
		text = colon + 1;
	}
	raw = CdpIdentifierMake(kind, kindlen, text, len);
	if (CdpCanonicalise(kinds, raw, &canonical, &found) != CDP_CANONICAL_ACCOUNT)
		return NULL;
	return canonical;
}

void
CdpEntryAccounts(CdpKindSet *kinds, CdpEntry *entry)
{
	Datum	   *elems;
	bool	   *nulls;
	int			n = 0;

	entry->accounts_known = true;
	entry->naccounts = 0;
	if (entry->identifiers != NULL)
		deconstruct_array(entry->identifiers, ARR_ELEMTYPE(entry->identifiers), -1, false,
						  TYPALIGN_INT, &elems, &nulls, &n);
	entry->accounts = palloc(sizeof(struct varlena *) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		CdpIdentifier *canonical = NULL;
		CdpKind    *kind;

		if (!nulls[i] &&
			CdpCanonicalise(kinds, (CdpIdentifier *) DatumGetPointer(elems[i]), &canonical,
							&kind) == CDP_CANONICAL_ACCOUNT)
			entry->accounts[entry->naccounts++] = canonical;
	}
}

/* ---- for SQL ---- */

/*
 * Rows with the times of memberships: since, the first evidence after the last
 * that says otherwise.
 */
static const char *const accounts_query =
	"SELECT y.account_id, a.identifier, s.since, y.at"
	" FROM " CDP_MEMBERSHIPS("$1", "$2") " y"
	" JOIN cdp.account_identities a ON a.account_id = y.account_id"
	" CROSS JOIN LATERAL cdp.member_since(y.account_id, $1, $2) s (since)"
	" ORDER BY y.at DESC, y.tie DESC, a.identifier";

static const char *const members_query =
	"SELECT y.profile_id, s.since, y.at"
	" FROM " MEMBERS("$1", "$2") " y"
	" CROSS JOIN LATERAL cdp.member_since($1, y.profile_id, $2) s (since)"
	" WHERE cdp.visible(y.profile_id) ORDER BY y.profile_id";

static Datum
run_query(FunctionCallInfo fcinfo, const char *query, int64 id)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			types[] = {INT8OID, TIMESTAMPTZOID};
	Datum		args[2];

	args[0] = Int64GetDatum(id);
	args[1] = PG_ARGISNULL(1) ? TimestampTzGetDatum(DT_NOEND) : PG_GETARG_DATUM(1);
	if (SPI_execute_with_args(query, 2, types, args, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read memberships of accounts");
	for (uint64 i = 0; i < SPI_processed; i++)
		tuplestore_puttuple(rsinfo->setResult, SPI_tuptable->vals[i]);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(cdp_accounts_of);

/*
 * cdp.accounts_of(identifier, at) returns setof record
 */
Datum
cdp_accounts_of(PG_FUNCTION_ARGS)
{
	CdpUserContext saved;
	int64		profile;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	profile = CdpProfileOfIdentifier(-1, PG_GETARG_IDENTIFIER_PP(0));
	if (profile == 0)
		return (Datum) 0;
	CdpBecomeOwner(&saved);
	SPI_connect();
	run_query(fcinfo, accounts_query, profile);
	SPI_finish();
	CdpRestoreUser(&saved);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(cdp_members_of);

/*
 * cdp.members_of(account, at) returns setof record
 */
Datum
cdp_members_of(PG_FUNCTION_ARGS)
{
	CdpUserContext saved;
	int64		account;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	CdpBecomeOwner(&saved);
	SPI_connect();
	account = CdpAccountOfIdentifier(-1, PG_GETARG_IDENTIFIER_PP(0));
	if (account != 0)
		run_query(fcinfo, members_query, account);
	SPI_finish();
	CdpRestoreUser(&saved);
	return (Datum) 0;
}
