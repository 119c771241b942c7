/*-------------------------------------------------------------------------
 *
 * capture_trigger.c
 *	  The triggers of attached tables: which rows a statement has changed, as
 *	  capture.c is told of them.
 *
 * IDENTIFICATION
 *	  src/collect/capture_trigger.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "collect/attach.h"

PG_FUNCTION_INFO_V1(cdp_capture);

/* the transition tables, by the names that attach.c gives them */
#define NEW_TABLE "cdp_new"
#define OLD_TABLE "cdp_old"
#define NEW_ROWS NEW_TABLE " AS r"
#define OLD_ROWS OLD_TABLE " AS r"

/*
 * Has the relation two foreign keys that change its rows?  What changes by both
 * at once is in the transition tables twice.
 */
static bool
changed_by_keys(Relation rel)
{
	int n = 0;
	ListCell *lc;

	if (rel->trigdesc == NULL)
		return false;
	foreach (lc, RelationGetFKeyList(rel))
	{
		ForeignKeyCacheInfo *key = lfirst(lc);
		HeapTuple tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(key->conoid));
		Form_pg_constraint form;

		if (!HeapTupleIsValid(tuple))
			continue;
		form = (Form_pg_constraint) GETSTRUCT(tuple);
		n += strchr("cnd", form->confdeltype) != NULL || strchr("cnd", form->confupdtype) != NULL;
		ReleaseSysCache(tuple);
	}
	return n > 1;
}

/*
 * Rows of a statement may be others by now: triggers that fired for each row
 * before may have changed them again.  That was captured before, as what they
 * did is a statement inside of this one.  What a foreign key to the table
 * itself cascades to is in the same transition tables, beside what was before.
 */
static bool
may_be_stale(Relation rel, CdpAttachment *attachment)
{
	TransactionId xid = GetTopTransactionId();
	int depth = DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0));
	TriggerDesc *desc = rel->trigdesc;

	if (attachment->nested_xid != xid)
	{
		attachment->nested_xid = xid;
		attachment->nested_depth = 0;
	}
	if (attachment->nested_depth > depth)
		return true;
	if (depth > 1)
		attachment->nested_depth = depth;
	for (int i = 0; desc != NULL && i < desc->numtriggers; i++)
		if (desc->triggers[i].tgconstrrelid == RelationGetRelid(rel) &&
			RI_FKey_trigger_type(desc->triggers[i].tgfoid) == RI_TRIGGER_PK)
			return true;
	return changed_by_keys(rel);
}

/*
 * cdp.capture() returns trigger: AFTER ... FOR EACH STATEMENT, with transition
 * tables cdp_new and cdp_old; its argument is the name of the attachment.
 */
Datum
cdp_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	CdpAttachment *attachment;
	CdpCapture capture;
	CdpMapping *mapping;
	Relation rel;
	Oid attached;
	const char *key;
	const char *current = NULL; /* rows as they are now */

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event) ||
		trigger->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("cdp.capture() must be called by the triggers that cdp.attach() makes")));
	rel = trigger->tg_relation;

	SPI_connect();
	attachment = CdpAttachmentGet(trigger->tg_trigger->tgargs[0], true);
	attached = attachment == NULL ? InvalidOid : CdpAttachedRelation(attachment);
	if (attachment == NULL || !OidIsValid(attachment->role) ||
		!CdpIsAttached(rel, attached))
	{
		SPI_finish();
		return PointerGetDatum(NULL);
	}
	SPI_register_trigger_data(trigger);
	CdpCaptureBegin(&capture, attachment);
	/* a statement may name a child, for which its parent's key does not hold */
	capture.doubles = get_rel_relkind(attached) == RELKIND_RELATION && has_subclass(attached);
	capture.unattended = true;
	mapping = attachment->mapping;
	key = mapping->key;
	if (key == NULL)
		key = CdpMappingPrimaryKey(attached, true);

	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event) &&
		(key != NULL || (RelationGetRelid(rel) == attached && !has_subclass(attached))))
	{
		CdpCaptureTruncate(&capture, attached, key);
		CdpCaptureEnd(&capture);
		SPI_finish();
		return PointerGetDatum(NULL);
	}
	if (may_be_stale(rel, attachment))
		current = CdpMappingCurrentRows(attached, attachment->relation,
										TRIGGER_FIRED_BY_DELETE(trigger->tg_event) ? OLD_TABLE : NEW_TABLE,
										TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? OLD_TABLE : NULL);

	if (key == NULL)
	{
		ErrorData error = { .sqlerrcode = ERRCODE_INVALID_TABLE_DEFINITION,
							.message = pstrdup("The table has no primary key any more.") };

		CdpCaptureRefuse(&capture, CurrentMemoryContext, &error, NULL);
	}
	else if (current != NULL)
	{
		const char *was = TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ? NEW_ROWS : OLD_ROWS;

		CdpCaptureRows(&capture, attached, key, current, NULL);
		CdpCaptureKeys(&capture, attached,
					   psprintf("%s EXCEPT %s",
								CdpMappingKeyQuery(mapping, key, was, false),
								CdpMappingKeyQuery(mapping, key, current, true)));
	}
	else if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		CdpCaptureRows(&capture, RelationGetRelid(rel), key, NEW_ROWS, NULL);
	else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		CdpCaptureKeys(&capture, RelationGetRelid(rel),
					   CdpMappingKeyQuery(mapping, key, OLD_ROWS, false));
	else
	{
		CdpCaptureRows(&capture, RelationGetRelid(rel), key, NEW_ROWS, NULL);
		CdpCaptureKeys(&capture, RelationGetRelid(rel),
					   psprintf("%s EXCEPT %s",
								CdpMappingKeyQuery(mapping, key, OLD_ROWS, false),
								CdpMappingKeyQuery(mapping, key, NEW_ROWS, true)));
	}

	CdpCaptureWrite(&capture, false);
	CdpCaptureEnd(&capture);
	SPI_finish();
	return PointerGetDatum(NULL);
}
