{# A model is a view whose rows are entries of the log: its text is the query,
   mapping is as of cdp.attach(). Compared with the log at the end of each run of
   the model, and by the worker in between. --full-refresh retracts and logs all
   rows anew. #}
{% materialization cdp_source, adapter='postgres' %}
  {% set mapping = config.require('mapping') %}
  {% set name = config.get('attachment', this.schema ~ '_' ~ this.identifier) | lower %}
  {% set object = {'relation': '"' ~ this.schema ~ '"."' ~ this.identifier ~ '"', 'mapping': mapping, 'capture': 'poll'} %}
  {% if config.get('source') is not none %}{% do object.update({'source': config.get('source')}) %}{% endif %}

  {{ run_hooks(pre_hooks, inside_transaction=False) }}
  {{ run_hooks(pre_hooks, inside_transaction=True) }}
  {% set target_relation = cdp.cdp_view(sql) %}
  {% if should_full_refresh() %}
    {% do run_query("SELECT cdp.drop_attachment(name, retract => true) FROM cdp.attachments WHERE name = " ~ dbt.string_literal(name)) %}
  {% endif %}
  {% do cdp.cdp_apply('attachments', name, object) %}
  {% set done = run_query("SELECT logged, retracted, rejected FROM cdp.sync_attachment(" ~ dbt.string_literal(name) ~ ")") %}
  {% if done.rows[0][2] > 0 %}
    {% do exceptions.warn("cdp: " ~ done.rows[0][2] ~ " rows of " ~ this ~ " cannot be mapped, see cdp.rejected") %}
  {% endif %}
  {{ run_hooks(post_hooks, inside_transaction=True) }}
  {% do adapter.commit() %}
  {# models that read what follows from these rows find it #}
  {% call statement('apply') %}{{ cdp.cdp_wait() }}{% endcall %}
  {% do adapter.commit() %}
  {{ run_hooks(post_hooks, inside_transaction=False) }}
  {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}
