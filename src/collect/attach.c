/*-------------------------------------------------------------------------
 *
 * attach.c
 *	  Tables and views as sources of entries: attach, synchronise, detach.
 *
 *	  A table is stored by name and looked up when it is needed: a tool that
 *	  builds a new table and renames it into the place of the old one changes
 *	  what the name means, not the attachment.  What such a tool did, what
 *	  happened while triggers were off, and the rows that were there before,
 *	  are all found in the same way: by comparing the rows of the table with
 *	  what the log says of them.
 *
 * IDENTIFICATION
 *	  src/collect/attach.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

#include "collect/attach.h"
#include "collect/extract.h"
#include "statement.h"

PG_FUNCTION_INFO_V1(cdp_attach);
PG_FUNCTION_INFO_V1(cdp_drop_attachment);
PG_FUNCTION_INFO_V1(cdp_sync_attachment);
PG_FUNCTION_INFO_V1(cdp_attachment_fault);

/* how often a lock is asked for, and how long others may have to wait behind it, in ms */
#define LOCK_PAUSE 10
#define LOCK_QUEUE 100

/* "cdp_", the name and "_truncate" must fit into a name */
#define MAX_NAME 50

static CdpStatement insert_definition = {
	"INSERT INTO cdp.attachment_definitions"
	" (id, name, relation, source, mapping, capture, attached_by, relation_owner, copy, incarnation)"
	" SELECT COALESCE(max(a.id), 0) + 1, $1, $2, $3, $4, $5, $6, $7, $8,"
	" (SELECT i.id FROM cdp.incarnation i)"
	" FROM cdp.attachment_definitions a",
	{ "text", "text", "text", "jsonb", "text", "text", "text", "bool" }
};

static CdpStatement same_name = {
	"SELECT a.name = $1, a.name FROM cdp.attachment_definitions a"
	" WHERE a.name = $1 OR a.source = $2 ORDER BY 1 DESC LIMIT 1",
	{ "text", "text" }
};

static CdpStatement lock_definition = {
	"SELECT a.capture, a.position FROM cdp.attachment_definitions a"
	" WHERE a.id = $1 FOR UPDATE",
	{ "int4" }
};

static CdpStatement move_position = {
	"UPDATE cdp.attachment_definitions SET position = $2 WHERE id = $1",
	{ "int4", "timestamptz" }
};

static CdpStatement delete_definition = {
	"DELETE FROM cdp.attachment_definitions WHERE id = $1",
	{ "int4" }
};

static CdpStatement forget_rows = {
	"DELETE FROM cdp.attached_rows WHERE attachment = $1",
	{ "int4" }
};

static CdpStatement is_unread = {
	"SELECT 1 FROM cdp.unread_attachments n WHERE n.attachment = $1 LIMIT 1",
	{ "int4" }
};

static CdpStatement forget_unread = {
	"DELETE FROM cdp.unread_attachments WHERE attachment = $1",
	{ "int4" }
};

/*
 * Payloads that were not copied, before their rows are out of reach.  Entries
 * count on as they did, though tracking plans would judge them now.
 */
static CdpStatement copy_payloads = {
	"WITH copied AS (UPDATE cdp.events e SET properties = i.properties"
	" FROM " CDP_ROWS_NAME " AS i JOIN cdp.attached_rows r"
	" ON r.attachment = $1 AND r.key = i.key AND r.hash = i.hash"
	" WHERE e.id = r.entry AND e.source = $2"
	/* not what an erasure has left of one */
	" AND e.properties = jsonb_build_object('$row', e.properties->'$row')"
	" RETURNING e.id, e.type, e.event, e.received_at, e.properties)"
	" INSERT INTO cdp.plan_releases SELECT c.id, false FROM copied c"
	" WHERE EXISTS (SELECT FROM cdp.plan_definitions d WHERE d.mode <> 'allow')"
	" AND (cdp.plan_withholds(c.id, c.type, c.event, c.received_at, c.properties)"
	" OR cdp.plan_keeps(c.id, c.type, c.event, c.received_at, c.properties)"
	" IS DISTINCT FROM c.properties) ON CONFLICT DO NOTHING RETURNING entry",
	{ "int4", "text" }
};

static CdpStatement lost_payloads = {
	"SELECT count(*) FROM cdp.attached_rows r WHERE r.attachment = $1 AND NOT EXISTS"
	" (SELECT FROM " CDP_ROWS_NAME " AS i WHERE i.key = r.key AND i.hash = r.hash)",
	{ "int4" }
};

static CdpStatement find_triggers = {
	"SELECT t.tgrelid, t.tgname FROM pg_trigger t"
	" WHERE t.tgfoid = 'cdp.capture()'::regprocedure AND NOT t.tgisinternal"
	" AND t.tgargs = convert_to($1, getdatabaseencoding()) || '\\000'::bytea"
	" ORDER BY 1, 2",
	{ "text" }
};

static const struct
{
	const char *event;
	const char *suffix;
	const char *tables;
} triggers[] = {
	{ "INSERT", "insert", "REFERENCING NEW TABLE AS cdp_new" },
	{ "UPDATE", "update", "REFERENCING OLD TABLE AS cdp_old NEW TABLE AS cdp_new" },
	{ "DELETE", "delete", "REFERENCING OLD TABLE AS cdp_old" },
	{ "TRUNCATE", "truncate", "" }
};

static void
execute(const char *sql)
{
	int rc = SPI_execute(sql, false, 0);

	if (rc < 0)
		elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(rc));
}

static char *
relation_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}

static char *
owner_name(Oid relid)
{
	Oid owner;
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return GetUserNameFromId(owner, false);
}

static bool
has_trigger(Oid relid, const char *name)
{
	return OidIsValid(get_trigger_oid(relid, name, true));
}

/*
 * Triggers see all rows, a comparison those that the policies of the table let
 * the role see: the two would undo each other's work.
 */
static void
check_row_security(Oid relid, Oid role)
{
	if (check_enable_rls(relid, role, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row-level security of \"%s\" hides rows from the role that attaches it",
						get_rel_name(relid)),
				 errhint("Attach it as its owner, or say capture => 'poll': then the rows that the role sees are logged.")));
}

void
CdpLockBeside(Oid relid, LOCKMODE mode)
{
	TimestampTz until;
	int nest_level;

	if (LockTimeout <= LOCK_QUEUE)
	{
		LockRelationOid(relid, mode);
		return;
	}
	until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LockTimeout - LOCK_QUEUE);
	while (!ConditionalLockRelationOid(relid, mode))
	{
		CHECK_FOR_INTERRUPTS();
		if (GetCurrentTimestamp() >= until)
		{
			nest_level = NewGUCNestLevel();
			(void) set_config_option("lock_timeout", CppAsString2(LOCK_QUEUE), PGC_USERSET,
									 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
			LockRelationOid(relid, mode);
			AtEOXact_GUC(true, nest_level);
			return;
		}
		pg_usleep(LOCK_PAUSE * 1000L);
	}
}

/*
 * The triggers of a table and of its partitions or children, those that are
 * missing: a statement fires those of the table that it names, only.
 */
static void
make_triggers(const char *name, Oid relid)
{
	List *relids = list_make1_oid(relid);
	ListCell *cell;

	CdpLockBeside(relid, ShareRowExclusiveLock);
	if (has_subclass(relid))
		relids = find_all_inheritors(relid, NoLock, NULL);
	foreach(cell, relids)
	{
		Oid one = lfirst_oid(cell);
		char relkind;

		CdpLockBeside(one, ShareRowExclusiveLock);
		relkind = get_rel_relkind(one);
		if (relkind == RELKIND_FOREIGN_TABLE || relkind == '\0')
			continue;
		for (int i = 0; i < lengthof(triggers); i++)
		{
			char *trigger = psprintf("cdp_%s_%s", name, triggers[i].suffix);

			if (has_trigger(one, trigger))
				continue;
			execute(psprintf("CREATE TRIGGER %s AFTER %s ON %s %s"
							 " FOR EACH STATEMENT EXECUTE FUNCTION cdp.capture(%s)",
							 quote_identifier(trigger), triggers[i].event,
							 relation_name(one), triggers[i].tables,
							 quote_literal_cstr(name)));
		}
	}
}

/*
 * Are triggers of the relation itself missing, as after a rename-swap?
 */
static bool
lacks_triggers(const char *name, Oid relid)
{
	for (int i = 0; i < lengthof(triggers); i++)
		if (!has_trigger(relid, psprintf("cdp_%s_%s", name, triggers[i].suffix)))
			return true;
	return false;
}

/*
 * Lock the definition, so that one at a time reads the relation for it, and
 * find the relation.  What has its name must still be what was attached.
 */
void
CdpAttachmentOpen(CdpOpenAttachment *open, CdpAttachment *attachment)
{
	CdpUserContext saved;
	Datum arg = Int32GetDatum(attachment->id);
	bool isnull;

	/* it may have been detached meanwhile */
	open->attachment = attachment;
	CdpBecomeOwner(&saved);
	if (CdpRun(&lock_definition, &arg, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("attachment \"%s\" does not exist", attachment->name)));
	open->triggers = strcmp(TextDatumGetCString(CdpCell(0, 1, &isnull)), "trigger") == 0;
	open->position = DatumGetTimestampTz(CdpCell(0, 2, &isnull));
	open->started = !isnull;
	CdpRestoreUser(&saved);

	if (!OidIsValid(attachment->role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the role that attached \"%s\" does not exist any more",
						attachment->name),
				 errhint("Drop the attachment and attach again as another role.")));

	/* as who attached it, like everything that is done to the relation */
	CdpBecomeRole(attachment->role, &saved);
	open->relid = DatumGetObjectId(DirectFunctionCall1(regclassin,
													   CStringGetDatum(attachment->relation)));
	if (!CdpOwnedAsAttached(attachment, open->relid))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("relation %s does not belong to role \"%s\" as it did when it was attached",
						attachment->relation, attachment->owner),
				 errhint("If that is as it should be, drop the attachment and attach again.")));
	if (open->triggers)
		check_row_security(open->relid, attachment->role);
	CdpRestoreUser(&saved);
	open->complete = !open->triggers || !lacks_triggers(attachment->name, open->relid);
}

/*
 * How far the cursor of a mapping has been followed.
 */
void
CdpAttachmentMove(CdpOpenAttachment *open, TimestampTz position)
{
	CdpUserContext saved;
	Datum args[2] = { Int32GetDatum(open->attachment->id), TimestampTzGetDatum(position) };

	CdpBecomeOwner(&saved);
	CdpRun(&move_position, args, NULL);
	CdpRestoreUser(&saved);
}

/*
 * Was something computed without rows that could not be read?  Not so any
 * more when they are logged anew.
 */
static bool
take_unread(CdpAttachment *attachment)
{
	CdpUserContext saved;
	Datum arg = Int32GetDatum(attachment->id);
	bool unread;

	CdpBecomeOwner(&saved);
	unread = CdpRunLatest(&is_unread, &arg) > 0;
	if (unread)
		CdpRunLatest(&forget_unread, &arg);
	CdpRestoreUser(&saved);
	return unread;
}

/*
 * Copy the payloads of an attachment that does not, as it ends.  If something
 * was computed without them, they are logged anew with the entries.
 */
static void
copy_all(CdpAttachment *attachment)
{
	CdpCapture capture;
	CdpUserContext saved;
	Datum args[2] = { Int32GetDatum(attachment->id), PointerGetDatum(attachment->source) };
	Oid relid = OidIsValid(attachment->role) ? CdpAttachedRelation(attachment) : InvalidOid;
	const char *key = OidIsValid(relid) ? CdpMappingPrimaryKey(relid, true) : NULL;
	int64 lost;

	CdpCaptureBegin(&capture, attachment);
	capture.latest = IsolationUsesXactSnapshot();
	capture.once = true;
	capture.whole = true;
	if (key != NULL)
		CdpCaptureRows(&capture, relid, key, psprintf("%s AS r", attachment->relation), NULL);
	capture.anew = take_unread(attachment);
	if (capture.anew)
		CdpCaptureWrite(&capture, false);
	CdpBecomeOwner(&saved);
	CdpCaptureRegister(&capture);
	if (CdpRunLatest(&copy_payloads, args) > 0)
		CdpGenerationBump();
	CdpRunLatest(&lost_payloads, args);
	lost = CdpCellInt8(0, 1);
	CdpCaptureUnregister();
	CdpRestoreUser(&saved);
	CdpCaptureEnd(&capture);
	if (lost > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("attachment \"%s\" has entries whose payload cannot be read any more",
						attachment->name),
				 errdetail("Of %lld of its rows the payload is not copied, and they are not what was logged.",
						   (long long) lost),
				 errhint("Synchronise the attachment first, or drop it with retract => true.")));
}

/*
 * Does a mapping fit a relation that may have changed since?  The error that
 * each of its rows would raise.  NULL: there is none, or it cannot be told, since
 * somebody has locked the relation, or what it is made of, or the error says
 * nothing of the mapping.  It is asked of all relations in one query, so what
 * is wrong with one must not stop the others.
 */
static ErrorData *
mapping_fault(const CdpAttachment *attachment, Oid relid)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		if (ConditionalLockRelationOid(relid, AccessShareLock))
			CdpMappingTry(attachment->mapping, relid, attachment->role);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	/* in any case: what it has locked must not stay locked until all are synchronised */
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;

	if (error == NULL || (CdpCaptureTolerates(error) && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE))
		return error;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	return NULL;
}

/*
 * Compare the rows of an attached relation with what the log says of them, and
 * write the difference to the log.
 */
void
CdpAttachmentSync(CdpCapture *capture, CdpOpenAttachment *open)
{
	CdpAttachment *attachment = open->attachment;
	CdpMapping *mapping = attachment->mapping;
	CdpUserContext saved;
	const char *key = mapping->key;
	char *from = psprintf("%s AS r", attachment->relation);
	char *condition = NULL;

	if (open->triggers)
	{
		CdpBecomeRole(attachment->role, &saved);
		SetUserIdAndSecContext(attachment->role,
							   saved.sec_context | SECURITY_LOCAL_USERID_CHANGE);
		make_triggers(attachment->name, open->relid);
		/* nobody writes between the look at the rows and the commit */
		CdpLockBeside(open->relid, ShareLock);
		CdpRestoreUser(&saved);
	}

	if (key == NULL)
		key = CdpMappingPrimaryKey(open->relid, false);
	CdpCaptureBegin(capture, attachment);
	capture->latest = IsolationUsesXactSnapshot();
	if (!attachment->copy)
		capture->anew = take_unread(attachment);
	if (mapping->cursor != NULL)
	{
		TimestampTz next;
		bool isnull;

		CdpBecomeRole(attachment->role, &saved);
		/* one that is in the future would pass by all that come until then */
		execute(psprintf("SELECT max(c.c) FROM %s CROSS JOIN LATERAL (SELECT %s::timestamptz) AS c(c)"
						 " WHERE isfinite(c.c) AND c.c <= %s::timestamptz",
						 from, mapping->cursor, quote_literal_cstr(timestamptz_to_str(CdpClock()))));
		next = DatumGetTimestampTz(CdpCell(0, 1, &isnull));
		/* what has no cursor cannot be passed by */
		if (open->started)
			condition = psprintf("(%s::timestamptz >= %s::timestamptz - %s::interval OR isfinite(%s::timestamptz) IS NOT TRUE)",
								 mapping->cursor,
								 quote_literal_cstr(timestamptz_to_str(open->position)),
								 quote_literal_cstr(mapping->overlap ? mapping->overlap : "0"),
								 mapping->cursor);
		CdpRestoreUser(&saved);
		capture->once = true;
		if (!isnull && (!open->started || next > open->position))
			CdpAttachmentMove(open, next);
	}
	CdpCaptureRows(capture, open->relid, key, from, condition);
	CdpCaptureWrite(capture, mapping->cursor == NULL);
	CdpCaptureEnd(capture);
	CdpLoadEnd(attachment);
}

static void
synchronise(CdpCapture *capture, CdpAttachment *attachment)
{
	CdpOpenAttachment open;
	ErrorData *fault;

	CdpAttachmentOpen(&open, attachment);
	/* not each of its rows to cdp.rejected */
	fault = mapping_fault(attachment, open.relid);
	if (fault != NULL)
		ereport(ERROR,
				(errcode(fault->sqlerrcode),
				 errmsg("the mapping of attachment \"%s\" does not fit its relation: %s",
						attachment->name, fault->message),
				 errhint("Change the relation or the rights on it, or attach it again with another mapping.")));
	CdpAttachmentSync(capture, &open);
}

static void
check_name(const char *name)
{
	int len = strlen(name);

	if (len == 0 || len > MAX_NAME ||
		strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != len ||
		(name[0] >= '0' && name[0] <= '9'))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of an attachment: \"%s\"", name),
				 errdetail("A name has 1 to %d lower-case letters, digits and underscores, and does not begin with a digit.",
						   MAX_NAME),
				 errhint("Give it with the argument name.")));
}

/*
 * cdp.attach(relation regclass, mapping jsonb, name text, source text,
 *			  capture text, load boolean, copy boolean) returns text
 */
Datum
cdp_attach(PG_FUNCTION_ARGS)
{
	Oid relid;
	Jsonb *json;
	CdpMapping *mapping;
	char *name;
	char *relation;
	text *source;
	const char *mode;
	char relkind;
	bool copy = PG_ARGISNULL(6) || PG_GETARG_BOOL(6);
	CdpUserContext saved;
	Datum args[8];

	for (int i = 0; i < 2; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not be NULL", i == 0 ? "relation" : "mapping")));
	relid = PG_GETARG_OID(0);
	json = PG_GETARG_JSONB_P(1);
	relkind = get_rel_relkind(relid);
	if (relkind == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (get_rel_persistence(relid) == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a temporary table cannot be attached")));
	if (get_rel_namespace(relid) == CdpSchemaOid())
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" belongs to the extension itself", get_rel_name(relid))));
	relation = relation_name(relid);
	name = PG_ARGISNULL(2) ? get_rel_name(relid) : text_to_cstring(PG_GETARG_TEXT_PP(2));
	check_name(name);
	source = PG_ARGISNULL(3) ? cstring_to_text(name) : PG_GETARG_TEXT_PP(3);
	if (VARSIZE_ANY_EXHDR(source) == 0 || VARSIZE_ANY_EXHDR(source) > CDP_MAX_MESSAGE_ID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source must have 1 to %d bytes", CDP_MAX_MESSAGE_ID)));

	switch (relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
			mode = "trigger";
			break;
		case RELKIND_VIEW:
		case RELKIND_MATVIEW:
		case RELKIND_FOREIGN_TABLE:
			mode = "poll";
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("\"%s\" is neither a table nor a view", get_rel_name(relid))));
	}
	if (!PG_ARGISNULL(4))
	{
		char *asked = text_to_cstring(PG_GETARG_TEXT_PP(4));

		if (strcmp(asked, "trigger") != 0 && strcmp(asked, "poll") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("capture must be trigger or poll")));
		if (strcmp(asked, "trigger") == 0 && strcmp(mode, "poll") == 0)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("\"%s\" cannot have triggers that see rows", get_rel_name(relid)),
					 errhint("Leave capture out: the relation is then compared with the log by cdp.sync_attachments().")));
		mode = strcmp(asked, "poll") == 0 ? "poll" : "trigger";
	}
	mapping = CdpMappingParse(json, true);
	if (mapping->cursor != NULL && strcmp(mode, "trigger") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a cursor is for relations that are polled"),
				 errhint("Say capture => 'poll', or leave the cursor out: triggers see every change.")));

	if (!copy && (strcmp(mode, "poll") == 0 || mapping->key != NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("payloads can be left where they are only in a table with triggers and a primary key"),
				 errdetail("A row that changes unnoticed, or is found by a key of the mapping's own, does not keep what it said."),
				 errhint("Leave out copy => false.")));

	SPI_connect();
	CdpMappingTry(mapping, relid, GetUserId());

	CdpBecomeOwner(&saved);
	LockRelationOid(CdpRelationOid("attachment_definitions"), ShareRowExclusiveLock);
	args[0] = CStringGetTextDatum(name);
	args[1] = PointerGetDatum(source);
	if (CdpRun(&same_name, args, NULL) > 0)
	{
		bool isnull;

		if (DatumGetBool(CdpCell(0, 1, &isnull)))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("attachment \"%s\" exists already", name),
					 errhint("Drop it first, or give this one another name.")));
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("attachment \"%s\" has this source already",
						TextDatumGetCString(CdpCell(0, 2, &isnull))),
				 errhint("Give this one another with the argument source.")));
	}
	args[1] = CStringGetTextDatum(relation);
	args[2] = PointerGetDatum(source);
	args[3] = JsonbPGetDatum(json);
	args[4] = CStringGetTextDatum(mode);
	args[5] = CStringGetTextDatum(GetUserNameFromId(saved.userid, false));
	args[6] = CStringGetTextDatum(owner_name(relid));
	args[7] = BoolGetDatum(copy);
	CdpRun(&insert_definition, args, NULL);
	CdpRestoreUser(&saved);

	if (strcmp(mode, "trigger") == 0)
	{
		check_row_security(relid, saved.userid);
		make_triggers(name, relid);
	}
	if (PG_ARGISNULL(5) || PG_GETARG_BOOL(5))
	{
		CdpAttachment *attachment = CdpAttachmentGet(name, false);
		CdpCapture capture = { 0 };

		if (((relkind != RELKIND_VIEW && relkind != RELKIND_FOREIGN_TABLE) || mapping->cursor != NULL) &&
			CdpLoadIsLarge(attachment))
			CdpLoadBegin(attachment, relid);
		else
			synchronise(&capture, attachment);
		if (capture.rejected > 0)
			ereport(NOTICE,
					(errmsg("%lld rows of \"%s\" cannot be mapped",
							(long long) capture.rejected, get_rel_name(relid)),
					 errhint("They are in cdp.rejected, with the reason.")));
	}
	SPI_finish();
	PG_RETURN_TEXT_P(cstring_to_text(name));
}

/*
 * Only who attached a table, or may act as that role, changes the attachment.
 */
static void
check_rights(const CdpAttachment *attachment)
{
	if (superuser() || (OidIsValid(attachment->role) && has_privs_of_role(GetUserId(), attachment->role)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must have the rights of the role that attached \"%s\"",
					attachment->name)));
}

/*
 * Drop triggers with the applier locked out, which would find rows out of reach
 * whose payload is being copied.  Who writes to a table may ask for the
 * applier's lock next, and who has that may write: so neither lock is held for
 * longer than half of deadlock_timeout while the other is waited for.  False
 * when that was not enough: both are given back, for another try.
 */
static bool
drop_without_applier(char **statements, int n, TimestampTz until)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool alone = false;
	volatile bool dropped = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		int patience = Max(DeadlockTimeout / 2, 1);
		int nest_level = NewGUCNestLevel();

		CdpApplierLock();
		alone = true;
		if (LockTimeout == 0 || LockTimeout > patience)
			(void) set_config_option("lock_timeout", psprintf("%d", patience), PGC_USERSET,
									 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		for (int i = 0; i < n; i++)
			execute(statements[i]);
		AtEOXact_GUC(true, nest_level);
		ReleaseCurrentSubTransaction();
		dropped = true;
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (!alone || error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE ||
			GetCurrentTimestamp() >= until)
			ReThrowError(error);
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return dropped;
}

/*
 * cdp.drop_attachment(name text, retract boolean) returns bigint
 */
Datum
cdp_drop_attachment(PG_FUNCTION_ARGS)
{
	CdpAttachment *attachment;
	CdpCapture capture;
	CdpUserContext saved;
	Datum arg;
	uint64 n;
	char **statements;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name must not be NULL")));
	SPI_connect();
	attachment = CdpAttachmentGet(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	check_rights(attachment);

	/* who reads a polled relation for it does not go on writing behind our back */
	CdpBecomeOwner(&saved);
	arg = Int32GetDatum(attachment->id);
	if (CdpRun(&lock_definition, &arg, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("attachment \"%s\" does not exist", attachment->name)));
	arg = CStringGetTextDatum(attachment->name);
	n = CdpRun(&find_triggers, &arg, NULL);
	statements = palloc_array(char *, n);
	for (uint64 i = 0; i < n; i++)
	{
		bool isnull;

		statements[i] = psprintf("DROP TRIGGER %s ON %s",
								 quote_identifier(NameStr(*DatumGetName(CdpCell(i, 2, &isnull)))),
								 relation_name(DatumGetObjectId(CdpCell(i, 1, &isnull))));
	}
	CdpRestoreUser(&saved);

	/* as the caller, who must own the tables */
	if (attachment->copy)
		for (uint64 i = 0; i < n; i++)
			execute(statements[i]);
	else
	{
		TimestampTz until = LockTimeout == 0 ? DT_NOEND : TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LockTimeout);

		while (!drop_without_applier(statements, n, until))
			CHECK_FOR_INTERRUPTS();
	}

	CdpCaptureBegin(&capture, attachment);
	if (!PG_ARGISNULL(1) && PG_GETARG_BOOL(1))
		CdpCaptureWrite(&capture, true);
	else if (!attachment->copy)
		copy_all(attachment);
	CdpCaptureEnd(&capture);
	CdpBecomeOwner(&saved);
	arg = Int32GetDatum(attachment->id);
	CdpRun(&forget_unread, &arg, NULL);
	CdpRunLatest(&forget_rows, &arg);
	CdpLoadEnd(attachment);
	CdpRun(&delete_definition, &arg, NULL);
	CdpRestoreUser(&saved);
	SPI_finish();
	PG_RETURN_INT64(capture.retracted);
}

/*
 * cdp.sync_attachment(name text)
 *		returns record (logged bigint, retracted bigint, rejected bigint)
 */
Datum
cdp_sync_attachment(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	CdpAttachment *attachment;
	CdpCapture capture;
	Datum values[3];
	bool nulls[3] = { 0 };

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	SPI_connect();
	attachment = CdpAttachmentGet(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	synchronise(&capture, attachment);
	SPI_finish();
	values[0] = Int64GetDatum(capture.logged);
	values[1] = Int64GetDatum(capture.retracted);
	values[2] = Int64GetDatum(capture.rejected);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/*
 * cdp.attachment_fault(name text) returns text
 */
Datum
cdp_attachment_fault(PG_FUNCTION_ARGS)
{
	CdpAttachment *attachment;
	ErrorData *fault = NULL;
	char *message = NULL;

	SPI_connect();
	attachment = CdpAttachmentGet(text_to_cstring(PG_GETARG_TEXT_PP(0)), true);
	if (attachment != NULL && OidIsValid(attachment->role))
	{
		Oid relid = CdpAttachedRelation(attachment);

		if (OidIsValid(relid))
			fault = mapping_fault(attachment, relid);
	}
	if (fault != NULL)
	{
		message = SPI_palloc(strlen(fault->message) + 1);
		strcpy(message, fault->message);
	}
	SPI_finish();
	if (message == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(message));
}
