/*-------------------------------------------------------------------------
 *
 * attachment.c
 *	  Attached relations: the definition, its relation and its role.
 *
 * IDENTIFICATION
 *	  src/collect/attachment.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "collect/attach.h"
#include "compat.h"
#include "statement.h"

static HTAB *attachments = NULL;

static CdpStatement read_attachment = {
	"SELECT a.id, a.version, a.relation, a.source, a.attached_by, a.mapping, a.relation_owner, a.copy"
	" FROM cdp.attachment_definitions a WHERE a.name = $1",
	{ "text" }
};

/*
 * Run a statement that must see what was committed just now, even if the
 * transaction looks at the database as it was before: a row of the table may
 * have been logged since by a synchronisation that this transaction waited
 * for, and the table been attached since.
 */
uint64
CdpRunLatest(CdpStatement *statement, Datum *args)
{
	int rc;

	CdpPrepare(statement);
	if (IsolationUsesXactSnapshot())
		rc = SPI_execute_snapshot(statement->plan, args, NULL, GetLatestSnapshot(),
								  InvalidSnapshot, false, true, 0);
	else
		rc = SPI_execute_plan(statement->plan, args, NULL, false, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	return SPI_processed;
}

/*
 * The attachment of that name, read again when it has changed; within SPI.
 */
CdpAttachment *
CdpAttachmentGet(const char *name, bool missing_ok)
{
	CdpAttachment *attachment;
	CdpUserContext saved;
	Datum arg = CStringGetTextDatum(name);
	NameData key;
	bool isnull;
	bool found;
	int64 version;
	char *role;

	if (attachments == NULL)
	{
		HASHCTL ctl = { .keysize = NAMEDATALEN, .entrysize = sizeof(CdpAttachment) };

		attachments = hash_create("cdp attachments", 16, &ctl,
								  HASH_ELEM | HASH_STRINGS);
	}
	namestrcpy(&key, name);
	CdpBecomeOwner(&saved);
	if (CdpRunLatest(&read_attachment, &arg) == 0)
	{
		if (!missing_ok)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("attachment \"%s\" does not exist", name)));
		CdpRestoreUser(&saved);
		return NULL;
	}
	attachment = hash_search(attachments, NameStr(key), HASH_ENTER, &found);
	if (!found)
	{
		attachment->context = NULL;
		attachment->version = -1;
		attachment->nested_xid = InvalidTransactionId;
	}
	version = CdpCellInt8(0, 2);
	if (attachment->version != version)
	{
		MemoryContext old;

		attachment->version = -1;
		if (attachment->context != NULL)
			MemoryContextReset(attachment->context);
		else
			attachment->context = AllocSetContextCreate(CacheMemoryContext,
														"cdp attachment",
														ALLOCSET_SMALL_SIZES);
		old = MemoryContextSwitchTo(attachment->context);
		attachment->id = DatumGetInt32(CdpCell(0, 1, &isnull));
		attachment->relation = TextDatumGetCString(CdpCell(0, 3, &isnull));
		attachment->source = DatumGetTextPCopy(CdpCell(0, 4, &isnull));
		attachment->owner = TextDatumGetCString(CdpCell(0, 7, &isnull));
		attachment->copy = DatumGetBool(CdpCell(0, 8, &isnull));
		attachment->mapping = CdpMappingParse(DatumGetJsonbPCopy(CdpCell(0, 6, &isnull)), false);
		MemoryContextSwitchTo(old);
		attachment->version = version;
	}
	role = TextDatumGetCString(CdpCell(0, 5, &isnull));
	attachment->role = get_role_oid(role, true);
	SPI_freetuptable(SPI_tuptable);
	CdpRestoreUser(&saved);
	return attachment;
}

void
CdpBecomeRole(Oid role, CdpUserContext *saved)
{
	static const char *const pinned[][2] = {
		{ "search_path", "pg_catalog, pg_temp" },
		{ "timezone", "UTC" },
		{ "datestyle", "ISO, YMD" },
		{ "intervalstyle", "postgres" },
		{ "extra_float_digits", "1" },
		{ "lc_monetary", "C" },
		{ "bytea_output", "hex" }
	};

	GetUserIdAndSecContext(&saved->userid, &saved->sec_context);
	SetUserIdAndSecContext(role, saved->sec_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	saved->pinned = CdpPlansPinned();
	saved->nest_level = NewGUCNestLevel();
	for (int i = 0; i < lengthof(pinned); i++)
		(void) set_config_option(pinned[i][0], pinned[i][1], PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Does the relation belong to whom it belonged when it was attached?  What it
 * consists of is evaluated with the rights of the role that attached it, so
 * somebody else's must not take its place by taking its name.
 */
bool
CdpOwnedAsAttached(const CdpAttachment *attachment, Oid relid)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	char *owner = NULL;

	if (HeapTupleIsValid(tuple))
	{
		owner = GetUserNameFromId(((Form_pg_class) GETSTRUCT(tuple))->relowner, true);
		ReleaseSysCache(tuple);
	}
	return owner != NULL && strcmp(owner, attachment->owner) == 0;
}

/*
 * What the name of the attached relation means now; invalid when that is
 * nothing, or somebody else's.
 */
Oid
CdpAttachedRelation(const CdpAttachment *attachment)
{
	Oid relid = RangeVarGetRelid(makeRangeVarFromNameList(
#if PG_VERSION_NUM >= 160000
									 stringToQualifiedNameList(attachment->relation, NULL)
#else
									 stringToQualifiedNameList(attachment->relation)
#endif
										 ),
								 NoLock, true);

	return OidIsValid(relid) && CdpOwnedAsAttached(attachment, relid) ? relid : InvalidOid;
}

/*
 * Is the relation the attached one, or a partition of it?  Not so a trigger of
 * somebody else's table, nor that of the table that has been renamed away.
 */
bool
CdpIsAttached(Relation rel, Oid attached)
{
	if (!OidIsValid(attached))
		return false;
	if (RelationGetRelid(rel) == attached)
		return true;
	if (rel->rd_rel->relispartition)
		return list_member_oid(get_partition_ancestors(RelationGetRelid(rel)), attached);
	return has_subclass(attached) &&
		list_member_oid(find_all_inheritors(attached, NoLock, NULL), RelationGetRelid(rel));
}
